//! Adapters on a model: from a folder, or new.

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId},
    tensor::{DType as BurnDType, Device, FloatDType, Tensor, TensorData},
};

use super::{
    beside::recording,
    change::transposed,
    complete::{self, is_gate},
    error::AdapterError,
    file::{AdapterFile, ModuleTensors, StoredTensor},
    parts::{AdapterParts, of, rank_of},
    random::Uniform,
    sites::{Sites, is_head},
};
use crate::{
    config::{LoraConfig, Pattern, Role},
    model::{
        Adaptable, Architecture, Embedding, Linear, Matrix, TIED_HEAD,
        layers::{Adapter, AdapterSwitch, Dropout, LowRank},
    },
};

/// Why a router is not trained.
pub(super) const CHOOSES: &str =
    "it chooses experts, and a choice has no gradient; name other modules as targets";

/// Why a norm has no factors.
pub(super) const NO_MATRIX: &str =
    "a norm has no matrix for factors; train it whole (`LoraConfig::whole`, whole=…)";

/// Puts an adapter of files on a model, with `weight` of its change. Its parameters go to the devices of the layers that they change,
/// gradients are recorded as on `device`, and nothing is trained; [`trainable`] changes that.
///
/// # Errors
///
/// [`AdapterError`] where a module of the adapter is not in the model, or has another shape; the model is as before.
pub fn attach<A: Architecture>(
    model: &mut A,
    file: &AdapterFile,
    weight: f64,
    device: &Device,
) -> Result<AdapterSwitch, AdapterError> {
    let switch = AdapterSwitch::new(&*file.name, weight);
    if file.modules().any(is_head) {
        model.untie();
    }
    let mut places = model.adaptable();
    let sites = Sites::of_model(&places);
    let resolved = sites.resolve(file, |_| false)?;
    let mut adapters = Vec::new();
    for (nth, found) in resolved.found.iter().enumerate() {
        if let Some((module, tensors)) = found {
            let device = recording(places[nth].device(), device);
            let adapter = adapter(file, module, tensors, &places[nth], &switch, &device)?;
            adapters.push((nth, adapter));
        }
    }
    complete::check(file, &sites, &resolved)?;
    if let Some(first) = resolved.beside.first() {
        tracing::warn!(
            adapter = %file.name,
            "changes {first} ({} such modules) beside the text model, which reads text alone: they are left aside",
            resolved.beside.len()
        );
    }
    for (nth, adapter) in adapters {
        places[nth].adapters().push(adapter);
    }
    Ok(switch)
}

/// Puts new factors on a model, which change nothing until they are trained. They go to the devices of the layers that they change, and
/// are trained, with gradients recorded as on `device` (`T::device(0)?.autodiff()`); the model itself stays as it is.
///
/// A begins uniform within `±1/√in`, as peft has it, and B with zeros; a magnitude begins with the norms of the rows.
///
/// # Errors
///
/// [`AdapterError::NoTarget`], [`AdapterError::Rank`], [`AdapterError::NotAdaptable`]; the model is as before.
pub fn add<A: Architecture>(
    model: &mut A,
    config: &LoraConfig,
    device: &Device,
) -> Result<AdapterSwitch, AdapterError> {
    let switch = AdapterSwitch::new(config.to_string(), 1.0);
    if config
        .whole
        .iter()
        .any(|pattern| pattern.is_match(TIED_HEAD, Role::Head))
    {
        model.untie();
    }
    let mut places = model.adaptable();
    for pattern in &config.targets {
        let named = named(&places, pattern)?;
        if !named.iter().any(|place| place.matrix().is_some()) {
            matrix(named[0])?;
        }
        let is_whole = |place: &&&Adaptable<'_>| {
            let mut whole = config.whole.iter();
            whole.any(|pattern| pattern.is_match(place.path(), place.role()))
        };
        let count = named.iter().filter(is_whole).count();
        if count == named.len() {
            return Err(AdapterError::TargetsWhole {
                pattern: pattern.to_string(),
                module: named[0].path().to_owned(),
                count,
            });
        }
    }
    for pattern in &config.whole {
        named(&places, pattern)?;
    }
    let mut adapters = Vec::new();
    for (nth, place) in places.iter().enumerate() {
        let device = recording(place.device(), device);
        if let Some(adapter) = new(config, nth as u64, place, &switch, &device)? {
            adapters.push((nth, adapter));
        }
    }
    for (nth, adapter) in adapters {
        places[nth].adapters().push(adapter);
    }
    Ok(switch)
}

/// The modules that a pattern names: one at least.
fn named<'p, 'm>(
    places: &'p [Adaptable<'m>],
    pattern: &Pattern,
) -> Result<Vec<&'p Adaptable<'m>>, AdapterError> {
    let named = places.iter();
    let named = named.filter(|place| pattern.is_match(place.path(), place.role()));
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        let first = places.first().map_or("none", Adaptable::path);
        return Err(AdapterError::NoTarget {
            pattern: pattern.to_string(),
            first: first.to_owned(),
        });
    }
    Ok(named)
}

/// Makes every adapter of a model trainable where it is, with gradients recorded as on `device`. Nothing else is trained.
pub fn trainable<A: Architecture>(model: &mut A, device: &Device) {
    struct Train<'d>(&'d Device);
    impl ModuleMapper for Train<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, values, mapper) = param.consume();
            let device = recording(values.device(), self.0);
            let values = values.without_autodiff().into_data();
            let values = Tensor::from_data(values, &device).require_grad();
            Param::from_mapped_value(id, values, mapper)
        }
    }
    for mut place in model.adaptable() {
        let adapters = place.adapters();
        let trained = adapters
            .drain(..)
            .map(|adapter| adapter.map(&mut Train(device)));
        *adapters = trained.collect::<Vec<_>>();
    }
}

/// How many values of a module are trained.
pub fn trainable_params<M: Module>(module: &M) -> u64 {
    struct Count(u64);
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let values = param.val();
            if values.is_require_grad() {
                self.0 += values.shape().num_elements() as u64;
            }
        }
    }
    let mut count = Count(0);
    module.visit(&mut count);
    count.0
}

/// The adapters of a model, each once, in the order in which they were put on.
pub fn adapters<A: Architecture>(model: &mut A) -> Vec<AdapterSwitch> {
    let mut found: Vec<AdapterSwitch> = Vec::new();
    for mut place in model.adaptable() {
        for adapter in place.adapters() {
            if !found.iter().any(|known| known.is(&adapter.switch)) {
                found.push(adapter.switch.clone());
            }
        }
    }
    found
}

/// The adapter of one module, from its tensors.
fn adapter(
    file: &AdapterFile,
    module: &str,
    tensors: &ModuleTensors,
    place: &Adaptable<'_>,
    switch: &AdapterSwitch,
    device: &Device,
) -> Result<Adapter, AdapterError> {
    let shape = place.shape();
    let rank = || {
        file.config
            .rank(module)
            .map_err(|reason| file.config_error(reason))
    };
    let place_tensor = |tensor: &StoredTensor,
                        name: &'static str,
                        expected: Vec<usize>|
     -> Result<_, AdapterError> {
        let floats = file.values(module, tensor, name, &expected)?;
        Ok(TensorData::new(floats, expected))
    };
    let whole = tensors.whole.as_ref();
    let whole = whole.map(|whole| -> Result<_, AdapterError> {
        let [rows, cols] = rows(&shape);
        let values = match place.is_turned() {
            // As the checkpoint has it, so has the adapter.
            true => {
                let values = file.values(module, whole, "whole weight", &[cols, rows])?;
                transposed(&values, cols).to_vec()
            }
            false => file.values(module, whole, "whole weight", &shape)?,
        };
        Ok(param(TensorData::new(values, [rows, cols]), device))
    });
    let whole: Option<Param<Tensor<2>>> = whole.transpose()?;
    let low_rank = match (&tensors.a, &tensors.b) {
        (Some(a), Some(b)) => {
            let matrix = matrix(place)?;
            let (rank, [out, r#in]) = (rank()?, factors_shape(place, matrix));
            let scale = file.config.scale(module);
            let magnitude = tensors.magnitude.as_ref();
            Some(LowRank {
                a: param(place_tensor(a, "factor A", vec![rank, r#in])?, device),
                b: param(place_tensor(b, "factor B", vec![out, rank])?, device),
                magnitude: magnitude
                    .map(|magnitude| place_tensor(magnitude, "magnitude", vec![out]))
                    .transpose()?
                    .map(|magnitude| param(magnitude, device)),
                scale: scale.map_err(|reason| file.config_error(reason))?,
                dropout: dropout(file.config.dropout(), 0, module),
                row_squares: magnitude.map(|_| match &whole {
                    Some(whole) => squares(place, &Matrix::Dense(whole.clone()), device),
                    None => squares(place, matrix, device),
                }),
            })
        }
        _ => None,
    };
    let bias = tensors.bias.as_ref();
    if bias.is_some() && place.bias().is_none() && matches!(place, Adaptable::Norm(_)) {
        return Err(AdapterError::NotAdaptable {
            module: module.to_owned(),
            reason: "the adapter has a bias for it, and this norm adds none",
        });
    }
    let bias = bias.map(|bias| place_tensor(bias, "bias", vec![shape[0]]));
    Ok(Adapter {
        whole,
        low_rank,
        bias: bias.transpose()?.map(|bias| param(bias, device)),
        switch: switch.clone(),
    })
}

/// The new adapter of one module, if the configuration names it.
fn new(
    config: &LoraConfig,
    nth: u64,
    place: &Adaptable<'_>,
    switch: &AdapterSwitch,
    device: &Device,
) -> Result<Option<Adapter>, AdapterError> {
    let (path, role) = (place.path(), place.role());
    let (has_matrix, bias) = (place.matrix().is_some(), place.bias());
    let parts = AdapterParts::of(config, path, role, has_matrix);
    let bias = bias.filter(|_| parts.bias);
    if !(parts.factors || parts.whole || bias.is_some()) {
        return Ok(None);
    }
    check_role(place)?;
    let low_rank = if parts.factors {
        let matrix = matrix(place)?;
        let [out, r#in] = factors_shape(place, matrix);
        let rank = rank_of(config, path, role);
        let alpha = of(&config.alphas, path, role).unwrap_or(config.alpha);
        let most = out.min(r#in);
        if rank == 0 || rank > most {
            return Err(AdapterError::Rank {
                module: path.to_owned(),
                rank,
                out,
                input: r#in,
                most,
            });
        }
        let mut uniform = Uniform::new(config.seed, nth);
        let bound = 1.0 / (r#in as f64).sqrt();
        // The factors of a table begin the other way round, so that a row of zeros is looked up.
        let begins = |len: usize, random: bool, uniform: &mut Uniform| match random {
            true => (0..len).map(|_| uniform.within(bound)).collect(),
            false => vec![0.0; len],
        };
        let a = begins(rank * r#in, !place.is_table(), &mut uniform);
        let b = begins(out * rank, place.is_table(), &mut uniform);
        let row_squares = config.dora.then(|| squares(place, matrix, device));
        Some(LowRank {
            a: trained(TensorData::new(a, [rank, r#in]), device),
            b: trained(TensorData::new(b, [out, rank]), device),
            magnitude: row_squares
                .clone()
                .map(|squares| trained(squares.sqrt().into_data(), device)),
            scale: config.scale(alpha, rank),
            dropout: dropout(config.dropout, config.seed, path),
            row_squares,
        })
    } else {
        None
    };
    let whole = parts.whole.then(|| {
        let values = match place {
            Adaptable::Linear(Linear { weight: matrix, .. })
            | Adaptable::Embedding(Embedding { table: matrix, .. }) => {
                matrix.to_dense(FloatDType::F32).into_data()
            }
            Adaptable::Norm(norm) => {
                let scale = norm.scale.val().without_autodiff();
                scale.reshape(rows(&norm.shape)).into_data()
            }
        };
        trained(values.convert_dtype(BurnDType::F32), device)
    });
    let bias = bias.map(|bias| {
        let values = bias.val().without_autodiff().into_data();
        trained(values.convert_dtype(BurnDType::F32), device)
    });
    Ok(Some(Adapter {
        whole,
        low_rank,
        bias,
        switch: switch.clone(),
    }))
}

/// `[out, in]` of the matrix that factors change. Those of a table change the transposed table.
fn factors_shape(place: &Adaptable<'_>, matrix: &Matrix) -> [usize; 2] {
    let [rows, cols] = matrix.shape();
    match place.is_table() {
        true => [cols, rows],
        false => [rows, cols],
    }
}

/// The matrix of a module, which factors need.
fn matrix<'p>(place: &'p Adaptable<'_>) -> Result<&'p Matrix, AdapterError> {
    place.matrix().ok_or_else(|| AdapterError::NotAdaptable {
        module: place.path().to_owned(),
        reason: NO_MATRIX,
    })
}

/// The shape of a whole weight in an adapter: a matrix, or the rows of the scale of a norm.
fn rows(shape: &[usize]) -> [usize; 2] {
    match *shape {
        [rows, cols] => [rows, cols],
        _ => [1, shape.iter().product()],
    }
}

/// Refuses to train what chooses experts.
fn check_role(place: &Adaptable<'_>) -> Result<(), AdapterError> {
    let rows = place.matrix().map(|matrix| matrix.shape()[0]);
    match place.role() {
        Role::Router if !is_gate(rows) => Err(AdapterError::NotAdaptable {
            module: place.path().to_owned(),
            reason: CHOOSES,
        }),
        _ => Ok(()),
    }
}

/// The sums of squares of the rows of a matrix, where its adapter is; the matrix of a table is the transposed table.
fn squares(place: &Adaptable<'_>, matrix: &Matrix, device: &Device) -> Tensor<1> {
    let device = device.clone().without_autodiff();
    let squares = match place.is_table() {
        true => matrix.column_squares(&device),
        false => matrix.row_squares(&device),
    };
    squares.without_autodiff()
}

fn dropout(rate: f64, seed: u64, module: &str) -> Option<Dropout> {
    let seed = seed ^ xxhash_rust::xxh3::xxh3_64(module.as_bytes());
    (rate > 0.0).then(|| Dropout::new(rate, seed))
}

/// A parameter that is not trained.
fn param<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D>> {
    let values = Tensor::from_data(data, (device, BurnDType::F32));
    Param::initialized(ParamId::new(), values)
}

/// A parameter that is trained, where its device records gradients.
fn trained<const D: usize>(data: TensorData, device: &Device) -> Param<Tensor<D>> {
    let values = Tensor::from_data(data, (device, BurnDType::F32));
    let values = match device.is_autodiff() {
        true => values.require_grad(),
        false => values,
    };
    Param::initialized(ParamId::new(), values)
}
