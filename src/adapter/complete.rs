//! Whether a file has all that its configuration names, and nothing else.

use super::{
    error::AdapterError,
    file::{AdapterFile, ModuleTensors},
    sites::{Resolved, Site, Sites, is_head},
};
use crate::config::Role;

/// Refuses a file that lacks tensors of a module which its configuration names, or has factors for one that it does not.
///
/// # Errors
///
/// [`AdapterError::Incomplete`], [`AdapterError::Untargeted`], [`AdapterError::NoSaved`].
pub(super) fn check(
    file: &AdapterFile,
    sites: &Sites,
    resolved: &Resolved<'_>,
) -> Result<(), AdapterError> {
    let places = || sites.iter().zip(&resolved.found);
    let has_experts = places().any(|(site, tensors)| {
        let factors = tensors.is_some_and(|(_, tensors)| tensors.has_factors());
        site.role == Role::Expert && factors
    });
    let (mut lacking, mut untargeted) = (Vec::new(), Vec::new());
    for (site, tensors) in places() {
        // The file may have another name for the module; its patterns may be of either.
        let module = tensors.map_or(&*site.module, |(module, _)| module);
        let tensors = tensors.map(|(_, tensors)| tensors);
        if !is_linear_layer(site, tensors, has_experts) && !is_table_or_norm(site) {
            continue;
        }
        let all_linear = site.rows.is_some() && !matches!(site.role, Role::Head | Role::Embedding);
        let mut targeted = false;
        for name in [module, &*site.module] {
            let named = file.config.targets(name, all_linear);
            targeted |= named.map_err(|reason| file.config_error(reason))?;
        }
        let targeted = targeted && site.rows.is_some();
        let has_factors = tensors.is_some_and(ModuleTensors::has_factors);
        // peft leaves a head that goes with the embedding out of the names.
        let follows = file.config.ensures_weight_tying() && is_head(module);
        if !targeted && file.config.names_targets() && has_factors && !follows {
            untargeted.push(module);
        }
        let missing = missing(file, tensors, targeted);
        let missing = missing.or_else(|| {
            let stored = tensors.is_some_and(|tensors| tensors.whole.is_some());
            let mut names = [module, &*site.module].into_iter();
            let whole = names.any(|name| file.config.is_saved_whole(name));
            (whole && !stored).then_some("whole weight")
        });
        lacking.extend(missing.map(|missing| (module, missing)));
    }
    if let Some(first) = untargeted.first() {
        return Err(AdapterError::Untargeted {
            adapter: file.name.clone(),
            module: (*first).to_owned(),
            count: untargeted.len(),
        });
    }
    if let Some((module, missing)) = lacking.first() {
        return Err(AdapterError::Incomplete {
            adapter: file.name.clone(),
            module: (*module).to_owned(),
            count: lacking.len(),
            missing,
        });
    }
    let modules = || sites.iter().map(|site| &*site.module).chain(file.modules());
    match file.config.saved_without(modules) {
        None => Ok(()),
        Some(name) => Err(AdapterError::NoSaved {
            adapter: file.name.clone(),
            name: name.to_owned(),
        }),
    }
}

/// Whether peft sees a linear layer there. transformers 5 has the matrices of all experts, and of most routers, as parameters
/// without a module; an adapter that was made with transformers 4 has factors of them.
fn is_linear_layer(site: &Site, tensors: Option<&ModuleTensors>, has_experts: bool) -> bool {
    match site.role {
        Role::Linear | Role::Head => true,
        Role::Expert => has_experts,
        Role::Router => is_gate(site.rows) || tensors.is_some(),
        _ => false,
    }
}

fn is_table_or_norm(site: &Site) -> bool {
    matches!(site.role, Role::Embedding | Role::Norm)
}

/// Whether a matrix of this many rows makes a gate, which is no choice: one score a token.
pub(super) fn is_gate(rows: Option<usize>) -> bool {
    rows == Some(1)
}

/// The tensor of factors that a module lacks.
fn missing(
    file: &AdapterFile,
    tensors: Option<&ModuleTensors>,
    targeted: bool,
) -> Option<&'static str> {
    let parts = tensors.map(|it| (it.a.is_some(), it.b.is_some(), it.magnitude.is_some()));
    match parts {
        Some((false, true, _)) => Some("factor A"),
        Some((true, false, _)) => Some("factor B"),
        Some((false, false, _)) | None => targeted.then_some("factors"),
        Some((true, true, false)) => file.config.is_dora().then_some("magnitude"),
        Some((true, true, true)) => None,
    }
}
