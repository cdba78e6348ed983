//! Which plugin has set what: two must not set the same.

use std::collections::BTreeMap;

use berth_proto::nri::v1alpha1::{Field, FieldOwners, OwningPlugins};

use crate::Error;

/// The owners of what was set, by container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners(BTreeMap<String, FieldOwners>);

/// A thing that can be set: a field, and of a field with several things which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) field: Field,
    pub(crate) key: Option<String>,
}

impl Claim {
    pub(crate) fn of(field: Field) -> Self {
        Self { field, key: None }
    }

    pub(crate) fn one(field: Field, key: impl Into<String>) -> Self {
        Self { field, key: Some(key.into()) }
    }
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.field.as_str_name())?;
        match &self.key {
            Some(key) => write!(f, " {key:?}"),
            None => Ok(()),
        }
    }
}

impl Owners {
    fn fields(&mut self, container: &str) -> &mut FieldOwners {
        self.0.entry(container.to_owned()).or_default()
    }

    /// Notes that this plugin sets this.
    ///
    /// # Errors
    /// Another one has.
    pub(crate) fn claim(
        &mut self,
        container: &str,
        claim: &Claim,
        plugin: &str,
    ) -> Result<(), Error> {
        let fields = self.fields(container);
        let field = claim.field as i32;
        let owner = match &claim.key {
            None => fields.simple.entry(field).or_insert_with(|| plugin.to_owned()),
            Some(key) => {
                let owners = &mut fields.compound.entry(field).or_default().owners;
                owners.entry(key.clone()).or_insert_with(|| plugin.to_owned())
            }
        };
        if owner == plugin {
            return Ok(());
        }
        Err(Error::Conflict {
            what: claim.to_string(),
            container: container.to_owned(),
            first: owner.clone(),
            second: plugin.to_owned(),
        })
    }

    /// Adds a plugin to those that have set what several may: hooks.
    pub(crate) fn join(&mut self, container: &str, field: Field, plugin: &str) {
        let owners = self.fields(container).simple.entry(field as i32).or_default();
        if owners.split(',').any(|owner| owner == plugin) {
            return;
        }
        if !owners.is_empty() {
            owners.push(',');
        }
        owners.push_str(plugin);
    }

    /// Forgets who set this: a plugin has removed it on purpose.
    pub(crate) fn clear(&mut self, container: &str, claim: &Claim) {
        let fields = self.fields(container);
        let field = claim.field as i32;
        match &claim.key {
            None => drop(fields.simple.remove(&field)),
            Some(key) => {
                if let Some(owners) = fields.compound.get_mut(&field) {
                    owners.owners.remove(key);
                }
            }
        }
    }

    /// As validators are told.
    pub(crate) fn message(&self) -> OwningPlugins {
        OwningPlugins { owners: self.0.clone() }
    }
}
