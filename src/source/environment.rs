//! Variables that options are looked up in.

use std::collections::HashMap;

use crate::config::Secret;

/// The environment of the process, or variables of the caller's in its place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment(Option<HashMap<String, Secret>>);

impl Environment {
    /// These variables, and none of the process.
    pub(super) fn of<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        let named = variables.map(|(name, value)| (name.into(), Secret(value.into())));
        Self(Some(named.collect()))
    }

    /// A variable, unless it is unset or blank.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let value = match &self.0 {
            Some(given) => given.get(name).map(|value| value.0.clone()),
            None => std::env::var(name).ok(),
        };
        value
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// The variables whose names begin with `prefix`, by name.
    #[cfg(feature = "remote")]
    pub(super) fn beginning_with(&self, prefix: &str) -> Vec<(String, String)> {
        let mut names: Vec<String> = match &self.0 {
            Some(given) => given.keys().cloned().collect(),
            None => std::env::vars_os()
                .filter_map(|(name, _)| name.into_string().ok())
                .collect(),
        };
        names.retain(|name| name.starts_with(prefix));
        names.sort();
        let values = names.into_iter();
        values
            .filter_map(|name| Some((name.clone(), self.get(&name)?)))
            .collect()
    }
}
