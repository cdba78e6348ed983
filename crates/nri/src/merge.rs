//! What several plugins adjust of a container that is being created, put together.
//!
//! A name that begins with `-` stands for the removal of the thing with the rest of the name; who
//! removes what another plugin has set may set it anew.

use std::collections::{BTreeMap, BTreeSet};

use berth_proto::nri::v1alpha1::{
    Container, ContainerAdjustment, ContainerEviction, CreateContainerResponse, Field, Hooks,
    KeyValue, LinuxContainer, LinuxContainerAdjustment, LinuxDevice, LinuxNamespace, LinuxRdt,
    Mount, OwningPlugins,
};

use crate::Error;
use crate::owners::{Claim, Owners};
use crate::resources::{claims, lay};
use crate::updates::Updates;

/// The name of what this name asks to remove; none if it asks for no removal.
#[must_use]
pub fn removal(name: &str) -> Option<&str> {
    name.strip_prefix('-')
}

fn marker(name: &str) -> String {
    format!("-{name}")
}

/// A container that is being created, as each plugin leaves it.
#[derive(Debug)]
pub(crate) struct Creation {
    /// As the next plugin is to see it.
    pub(crate) container: Container,
    adjust: ContainerAdjustment,
    owners: Owners,
    updates: Updates,
    evict: Vec<ContainerEviction>,
}

/// What came of a creation.
#[derive(Debug, Default)]
pub(crate) struct Created {
    /// What is to be changed of the container.
    pub(crate) adjust: ContainerAdjustment,
    /// What is to be changed of others.
    pub(crate) update: Vec<berth_proto::nri::v1alpha1::ContainerUpdate>,
    /// Which others are to end.
    pub(crate) evict: Vec<ContainerEviction>,
}

impl Creation {
    pub(crate) fn new(container: Container) -> Self {
        let updates = Updates::beside(&container.id);
        Self {
            container,
            adjust: ContainerAdjustment::default(),
            owners: Owners::default(),
            updates,
            evict: Vec::new(),
        }
    }

    /// Takes what a plugin answers.
    ///
    /// # Errors
    /// Another one has set the same, or it wants the container itself to end.
    pub(crate) fn take(
        &mut self,
        answer: CreateContainerResponse,
        plugin: &str,
    ) -> Result<(), Error> {
        if let Some(adjust) = answer.adjust {
            self.adjust(adjust, plugin)?;
        }
        self.updates.add(answer.update, plugin)?;
        if answer.evict.iter().any(|one| one.container_id == self.container.id) {
            let id = &self.container.id;
            let why = format!("it evicts container {id}, which is being created: refuse that");
            return Err(Error::Wrong { plugin: plugin.to_owned(), why });
        }
        self.evict.extend(answer.evict);
        Ok(())
    }

    /// What validators are shown.
    pub(crate) fn so_far(
        &self,
    ) -> (ContainerAdjustment, Vec<berth_proto::nri::v1alpha1::ContainerUpdate>, OwningPlugins)
    {
        (self.adjust.clone(), self.updates.all().to_vec(), self.owners.message())
    }

    pub(crate) fn into_created(self) -> Created {
        Created { adjust: self.adjust, update: self.updates.into_all(), evict: self.evict }
    }

    fn claim(&mut self, claim: &Claim, plugin: &str) -> Result<(), Error> {
        self.owners.claim(&self.container.id, claim, plugin)
    }

    fn clear(&mut self, field: Field, key: &str) {
        self.owners.clear(&self.container.id, &Claim::one(field, key));
    }

    fn adjust(&mut self, new: ContainerAdjustment, plugin: &str) -> Result<(), Error> {
        let mut by = By { creation: self, plugin };
        let mut now = std::mem::take(&mut by.creation.adjust.annotations);
        let done = by.map(Field::Annotations, new.annotations, &mut now);
        by.creation.adjust.annotations = now;
        by.creation.container.annotations = overlaid(&by.creation.container.annotations, done?);
        by.mounts(new.mounts)?;
        by.env(new.env)?;
        by.args(new.args)?;
        by.hooks(new.hooks.unwrap_or_default());
        if let Some(linux) = new.linux {
            by.linux(linux)?;
        }
        for limit in new.rlimits {
            self.claim(&Claim::one(Field::Rlimits, &limit.r#type), plugin)?;
            let adjust = &mut self.adjust.rlimits;
            for list in [adjust, &mut self.container.rlimits] {
                list.retain(|old| old.r#type != limit.r#type);
                list.push(limit.clone());
            }
        }
        for device in new.cdi_devices {
            self.claim(&Claim::one(Field::CdiDevices, &device.name), plugin)?;
            self.adjust.cdi_devices.push(device);
        }
        Ok(())
    }
}

/// What is removed, and what is set.
type Changes<V> = (BTreeSet<String>, BTreeMap<String, V>);

/// A map with changes made to it.
fn overlaid<V: Clone>(
    below: &BTreeMap<String, V>,
    (removed, set): Changes<V>,
) -> BTreeMap<String, V> {
    let kept = below.iter().filter(|(key, _)| !removed.contains(*key));
    let kept = kept.map(|(key, value)| (key.clone(), value.clone()));
    kept.chain(set).collect()
}

/// A creation, in the hands of one plugin.
struct By<'c> {
    creation: &'c mut Creation,
    plugin: &'c str,
}

impl By<'_> {
    fn claim(&mut self, claim: &Claim) -> Result<(), Error> {
        self.creation.claim(claim, self.plugin)
    }

    fn linux_of_container(&mut self) -> &mut LinuxContainer {
        self.creation.container.linux.get_or_insert_default()
    }

    fn linux_of_adjust(&mut self) -> &mut LinuxContainerAdjustment {
        self.creation.adjust.linux.get_or_insert_default()
    }

    /// Takes a map's changes into the adjustment so far, and gives them.
    fn map<V: Clone + Default>(
        &mut self,
        field: Field,
        new: BTreeMap<String, V>,
        so_far: &mut BTreeMap<String, V>,
    ) -> Result<Changes<V>, Error> {
        let removed: BTreeSet<String> =
            new.keys().filter_map(|key| removal(key)).map(str::to_owned).collect();
        let set: BTreeMap<String, V> =
            new.into_iter().filter(|(key, _)| removal(key).is_none()).collect();
        for key in &removed {
            self.creation.clear(field, key);
            so_far.remove(key);
            so_far.insert(marker(key), V::default());
        }
        for (key, value) in &set {
            self.claim(&Claim::one(field, key))?;
            so_far.insert(key.clone(), value.clone());
        }
        Ok((removed, set))
    }

    /// The same for a list whose entries have names.
    fn list<T: Clone>(
        &mut self,
        field: Field,
        new: Vec<T>,
        name: impl Fn(&T) -> &String,
        so_far: &mut Vec<T>,
    ) -> Result<(BTreeSet<String>, Vec<T>), Error> {
        let (gone, set): (Vec<T>, Vec<T>) =
            new.into_iter().partition(|entry| removal(name(entry)).is_some());
        let mut touched = BTreeSet::new();
        for entry in gone {
            let key = removal(name(&entry)).unwrap_or_default().to_owned();
            self.creation.clear(field, &key);
            so_far.retain(|old| *name(old) != key && *name(old) != *name(&entry));
            so_far.push(entry);
            touched.insert(key);
        }
        for entry in &set {
            self.claim(&Claim::one(field, name(entry)))?;
            so_far.retain(|old| name(old) != name(entry));
            so_far.push(entry.clone());
            touched.insert(name(entry).clone());
        }
        Ok((touched, set))
    }

    fn mounts(&mut self, new: Vec<Mount>) -> Result<(), Error> {
        let mut now = std::mem::take(&mut self.creation.adjust.mounts);
        let done = self.list(Field::Mounts, new, |mount| &mount.destination, &mut now);
        self.creation.adjust.mounts = now;
        let (touched, set) = done?;
        let shown = &mut self.creation.container.mounts;
        shown.retain(|mount| !touched.contains(&mount.destination));
        shown.extend(set);
        Ok(())
    }

    fn env(&mut self, new: Vec<KeyValue>) -> Result<(), Error> {
        let mut now = std::mem::take(&mut self.creation.adjust.env);
        let done = self.list(Field::Env, new, |variable| &variable.key, &mut now);
        self.creation.adjust.env = now;
        let (touched, set) = done?;
        let shown = &mut self.creation.container.env;
        let name = |text: &str| text.split('=').next().unwrap_or_default().to_owned();
        shown.retain(|variable| !touched.contains(&name(variable)));
        shown.extend(set.into_iter().map(|KeyValue { key, value }| format!("{key}={value}")));
        Ok(())
    }

    /// An empty first argument says that those of another plugin may be replaced.
    fn args(&mut self, mut args: Vec<String>) -> Result<(), Error> {
        if args.first().is_some_and(String::is_empty) {
            args.remove(0);
            let id = self.creation.container.id.clone();
            self.creation.owners.clear(&id, &Claim::of(Field::Args));
        }
        if args.is_empty() {
            return Ok(());
        }
        self.claim(&Claim::of(Field::Args))?;
        self.creation.container.args.clone_from(&args);
        self.creation.adjust.args = args;
        Ok(())
    }

    /// Several plugins may add hooks.
    fn hooks(&mut self, new: Hooks) {
        if new == Hooks::default() {
            return;
        }
        let adjust = self.creation.adjust.hooks.get_or_insert_default();
        for all in [adjust, self.creation.container.hooks.get_or_insert_default()] {
            all.prestart.extend(new.prestart.iter().cloned());
            all.create_runtime.extend(new.create_runtime.iter().cloned());
            all.create_container.extend(new.create_container.iter().cloned());
            all.start_container.extend(new.start_container.iter().cloned());
            all.poststart.extend(new.poststart.iter().cloned());
            all.poststop.extend(new.poststop.iter().cloned());
        }
        let id = self.creation.container.id.clone();
        self.creation.owners.join(&id, Field::OciHooks, self.plugin);
    }

    fn linux(&mut self, new: LinuxContainerAdjustment) -> Result<(), Error> {
        self.devices(new.devices)?;
        if let Some(resources) = new.resources {
            for claim in claims(&resources) {
                self.claim(&claim)?;
            }
            lay(self.linux_of_adjust().resources.get_or_insert_default(), &resources);
            lay(self.linux_of_container().resources.get_or_insert_default(), &resources);
        }
        if !new.cgroups_path.is_empty() {
            self.claim(&Claim::of(Field::CgroupsPath))?;
            self.linux_of_container().cgroups_path.clone_from(&new.cgroups_path);
            self.linux_of_adjust().cgroups_path = new.cgroups_path;
        }
        self.namespaces(new.namespaces)?;
        let mut now = std::mem::take(&mut self.linux_of_adjust().sysctl);
        let done = self.map(Field::Sysctl, new.sysctl, &mut now);
        self.linux_of_adjust().sysctl = now;
        let linux = self.linux_of_container();
        linux.sysctl = overlaid(&linux.sysctl, done?);
        let mut now = std::mem::take(&mut self.linux_of_adjust().net_devices);
        let done = self.map(Field::LinuxNetDevices, new.net_devices, &mut now);
        self.linux_of_adjust().net_devices = now;
        let linux = self.linux_of_container();
        linux.net_devices = overlaid(&linux.net_devices, done?);
        if let Some(value) = new.oom_score_adj {
            self.claim(&Claim::of(Field::OomScoreAdj))?;
            self.linux_of_container().oom_score_adj = Some(value);
            self.linux_of_adjust().oom_score_adj = Some(value);
        }
        if let Some(value) = new.io_priority {
            self.claim(&Claim::of(Field::IoPriority))?;
            self.linux_of_container().io_priority = Some(value);
            self.linux_of_adjust().io_priority = Some(value);
        }
        if let Some(value) = new.seccomp_policy {
            self.claim(&Claim::of(Field::SeccompPolicy))?;
            self.linux_of_container().seccomp_policy = Some(value.clone());
            self.linux_of_adjust().seccomp_policy = Some(value);
        }
        if let Some(value) = new.scheduler {
            self.claim(&Claim::of(Field::LinuxSched))?;
            self.linux_of_container().scheduler = Some(value.clone());
            self.linux_of_adjust().scheduler = Some(value);
        }
        if let Some(value) = new.memory_policy {
            self.claim(&Claim::of(Field::MemoryPolicy))?;
            self.linux_of_adjust().memory_policy = Some(value);
        }
        new.rdt.map_or(Ok(()), |rdt| self.rdt(rdt))
    }

    fn devices(&mut self, new: Vec<LinuxDevice>) -> Result<(), Error> {
        let mut now = std::mem::take(&mut self.linux_of_adjust().devices);
        let done = self.list(Field::Devices, new, |device| &device.path, &mut now);
        self.linux_of_adjust().devices = now;
        let (touched, set) = done?;
        let shown = &mut self.linux_of_container().devices;
        shown.retain(|device| !touched.contains(&device.path));
        shown.extend(set);
        Ok(())
    }

    /// Of each kind there is one: also who removes it owns it.
    fn namespaces(&mut self, new: Vec<LinuxNamespace>) -> Result<(), Error> {
        for namespace in new {
            let removed = removal(&namespace.r#type).map(str::to_owned);
            let kind = removed.clone().unwrap_or_else(|| namespace.r#type.clone());
            self.claim(&Claim::one(Field::Namespace, &kind))?;
            let shown = &mut self.linux_of_container().namespaces;
            shown.retain(|old| old.r#type != kind);
            if removed.is_none() {
                shown.push(namespace.clone());
            }
            let so_far = &mut self.linux_of_adjust().namespaces;
            so_far.retain(|old| removal(&old.r#type).unwrap_or(&old.r#type) != kind);
            so_far.push(namespace);
        }
        Ok(())
    }

    fn rdt(&mut self, new: LinuxRdt) -> Result<(), Error> {
        const FIELDS: [Field; 3] =
            [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring];
        let mut rdt = self.linux_of_adjust().rdt.take().unwrap_or_default();
        if new.remove {
            let id = self.creation.container.id.clone();
            for field in FIELDS {
                self.creation.owners.clear(&id, &Claim::of(field));
            }
            rdt = LinuxRdt { remove: true, ..LinuxRdt::default() };
        }
        let sets = [new.clos_id.is_some(), new.schemata.is_some(), new.enable_monitoring.is_some()];
        for (field, _) in FIELDS.into_iter().zip(sets).filter(|(_, set)| *set) {
            self.claim(&Claim::of(field))?;
            rdt.remove = false;
        }
        rdt.clos_id = new.clos_id.or(rdt.clos_id);
        rdt.schemata = new.schemata.or(rdt.schemata);
        rdt.enable_monitoring = new.enable_monitoring.or(rdt.enable_monitoring);
        self.linux_of_container().rdt = Some(rdt.clone()).filter(|rdt| !rdt.remove);
        self.linux_of_adjust().rdt = Some(rdt);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
