//! The path of a parameter in its module.

/// Where a visitor or mapper is in a module.
#[derive(Debug, Default)]
pub(super) struct ParamPath(Vec<String>);

impl ParamPath {
    /// Into the part `name`.
    pub(super) fn enter(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    /// Out of the part that was entered last.
    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    /// The path: `layers.0.mlp.up.adapters.0.low_rank.a`.
    pub(super) fn path(&self) -> String {
        self.0.join(".")
    }
}
