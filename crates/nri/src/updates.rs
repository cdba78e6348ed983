//! Changes of other containers' limits that plugins ask for, put together.

use berth_proto::nri::v1alpha1::{ContainerUpdate, LinuxResources};

use crate::Error;
use crate::owners::Owners;
use crate::resources::{claims, lay};

/// What all plugins together ask for.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    all: Vec<ContainerUpdate>,
    owners: Owners,
    /// It is being created: nobody can update it yet.
    created: Option<String>,
}

impl Updates {
    /// Beside the creation of this container.
    pub(crate) fn beside(created: &str) -> Self {
        Self { created: Some(created.to_owned()), ..Self::default() }
    }

    /// Adds what a plugin asks for.
    ///
    /// # Errors
    /// Another one has set the same, and this one does not ignore that.
    pub(crate) fn add(&mut self, updates: Vec<ContainerUpdate>, plugin: &str) -> Result<(), Error> {
        for update in updates {
            let ignored = update.ignore_failure;
            match self.add_one(update, plugin) {
                Err(why) if ignored => {
                    tracing::info!(plugin, error = %why, "an update that may fail is passed over");
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn add_one(&mut self, update: ContainerUpdate, plugin: &str) -> Result<(), Error> {
        let id = &update.container_id;
        if self.created.as_ref() == Some(id) {
            return Err(Error::Wrong {
                plugin: plugin.to_owned(),
                why: format!("it asks for an update of container {id}, which is being created"),
            });
        }
        let resources = update.linux.as_ref().and_then(|linux| linux.resources.clone());
        let resources = resources.unwrap_or_default();
        // All of it or nothing.
        let mut owners = self.owners.clone();
        for claim in claims(&resources) {
            owners.claim(id, &claim, plugin)?;
        }
        self.owners = owners;
        match self.all.iter_mut().find(|old| old.container_id == *id) {
            None => self.all.push(update),
            Some(old) => {
                old.ignore_failure &= update.ignore_failure;
                lay(
                    old.linux.get_or_insert_default().resources.get_or_insert_default(),
                    &resources,
                );
            }
        }
        Ok(())
    }

    /// What plugins have set so far of this container.
    pub(crate) fn of(&self, container: &str) -> Option<&LinuxResources> {
        let found = self.all.iter().find(|update| update.container_id == container)?;
        found.linux.as_ref()?.resources.as_ref()
    }

    /// All of it, in the order in which it was first asked for.
    pub(crate) fn into_all(self) -> Vec<ContainerUpdate> {
        self.all
    }

    pub(crate) fn all(&self) -> &[ContainerUpdate] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_proto::nri::v1alpha1::{
        LinuxContainerUpdate, LinuxCpu, OptionalInt64, OptionalUInt64,
    };

    fn update(id: &str, cpu: LinuxCpu) -> ContainerUpdate {
        let resources = LinuxResources { cpu: Some(cpu), ..LinuxResources::default() };
        let linux = Some(LinuxContainerUpdate { resources: Some(resources) });
        ContainerUpdate { container_id: id.into(), linux, ignore_failure: false }
    }

    fn shares(value: u64) -> LinuxCpu {
        LinuxCpu { shares: Some(OptionalUInt64 { value }), ..LinuxCpu::default() }
    }

    fn quota(value: i64) -> LinuxCpu {
        LinuxCpu { quota: Some(OptionalInt64 { value }), ..LinuxCpu::default() }
    }

    #[test]
    fn updates_of_several_plugins_come_together_by_container() {
        let mut updates = Updates::default();
        updates.add(vec![update("a", shares(5)), update("b", shares(6))], "10-x").unwrap();
        updates.add(vec![update("a", quota(7))], "20-y").unwrap();
        let a = updates.of("a").unwrap().cpu.clone().unwrap();
        assert_eq!((a.shares.unwrap().value, a.quota.unwrap().value), (5, 7));
        let ids: Vec<_> = updates.into_all().into_iter().map(|one| one.container_id).collect();
        assert_eq!(ids, ["a", "b"]);
    }

    #[test]
    fn two_plugins_do_not_set_the_same_of_a_container() {
        let mut updates = Updates::default();
        updates.add(vec![update("a", shares(5))], "10-x").unwrap();
        let why = updates.add(vec![update("a", shares(6))], "20-y").unwrap_err().to_string();
        assert!(why.contains("10-x and 20-y both set CPUShares"), "{why}");
        let may_fail = ContainerUpdate { ignore_failure: true, ..update("a", shares(6)) };
        updates.add(vec![may_fail], "20-y").unwrap();
        let kept = updates.of("a").unwrap().cpu.clone().unwrap();
        assert_eq!(kept.shares.unwrap().value, 5);
    }

    #[test]
    fn what_is_being_created_cannot_be_updated() {
        let mut updates = Updates::beside("new");
        let why = updates.add(vec![update("new", shares(5))], "10-x").unwrap_err();
        assert!(why.to_string().contains("which is being created"), "{why}");
    }
}
