//! Modules of Burn that take their tensors from a model that is not on this machine.

use std::{collections::BTreeMap, fs, sync::Arc};

use burn::{
    module::{Module, Param},
    tensor::{DType as BurnDType, Device, Tensor},
};
use burn_store::{ModuleSnapshot, bridge};
use firebox::{
    Cpu, DType, LoadConfig, Loader, Target,
    source::{Source, SourceExt},
};
use safetensors::SafeTensors;

use crate::{
    file_server::FileServer,
    models::{remote, tinyrust},
    s3::{BUCKET, S3Server},
};

/// Of a name that no adapter turns.
#[derive(Module, Debug)]
struct Matrix {
    weight: Param<Tensor<2>>,
}

#[derive(Module, Debug)]
struct Scale {
    weight: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Attention {
    q_proj: Matrix,
    k_proj: Matrix,
}

#[derive(Module, Debug)]
struct Layer {
    input_layernorm: Scale,
    self_attn: Attention,
}

#[derive(Module, Debug)]
struct Body {
    embed_tokens: Matrix,
    layers: Vec<Layer>,
    norm: Scale,
}

/// Some of the tensors of the model, under the names of its files.
#[derive(Module, Debug)]
struct Part {
    model: Body,
}

impl Part {
    fn zeros(device: &Device) -> Self {
        let of = |shape: [usize; 2]| Tensor::zeros(shape, (device, BurnDType::F32));
        let matrix = |shape| Matrix {
            weight: Param::from_tensor(of(shape)),
        };
        let scale = || Scale {
            weight: Param::from_tensor(Tensor::zeros([256], (device, BurnDType::F32))),
        };
        let layers = (0..4).map(|_| Layer {
            input_layernorm: scale(),
            self_attn: Attention {
                q_proj: matrix([256, 256]),
                k_proj: matrix([128, 256]),
            },
        });
        Self {
            model: Body {
                embed_tokens: matrix([2048, 256]),
                layers: layers.collect(),
                norm: scale(),
            },
        }
    }
}

/// The values of all tensors of the model, as the crate of the format reads them.
fn expected() -> BTreeMap<String, Vec<f32>> {
    let mut all = BTreeMap::new();
    for nth in 1..=3 {
        let name = format!("model-{nth:05}-of-00003.safetensors");
        let bytes = fs::read(tinyrust().join(name)).unwrap();
        for (name, tensor) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            assert_eq!(tensor.dtype(), safetensors::Dtype::BF16);
            let (halves, _) = tensor.data().as_chunks();
            let values = halves.iter().map(|half| {
                // The upper half of an f32.
                f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16)
            });
            all.insert(name, values.collect());
        }
    }
    all
}

/// Catches a store that wants a folder, tensors of another place, and weights that nobody takes and that are fetched all the same.
#[test]
fn a_module_takes_its_tensors_from_a_server() {
    let server = FileServer::serve(&tinyrust());
    let s3 = S3Server::start();
    s3.put_folder("org/tiny", &tinyrust());
    let at = remote(&format!("s3://{BUCKET}/org/tiny"));
    let at = at
        .environment(S3Server::environment(&s3.url))
        .build()
        .unwrap();
    let sources: [Arc<dyn Source>; 2] =
        [Arc::new(remote(&server.url).build().unwrap()), Arc::new(at)];
    let expected = expected();
    for source in sources {
        let config = LoadConfig::default()
            .dtype(DType::F32)
            .source(Arc::clone(&source));
        let mut store = Loader::<Cpu>::new(config).unwrap().store().unwrap();
        let mut module = Part::zeros(&Cpu::device(0).unwrap());
        let applied = module.load_from(&mut store).unwrap();
        assert!(applied.missing.is_empty(), "{applied}");
        let found = module.collect(None, None, true);
        let mut taken = 0;
        for tensor in &found {
            let data = bridge::to_data(tensor).unwrap();
            let values = data.try_into_vec::<f32>().unwrap();
            assert!(values == expected[&tensor.name], "{}", tensor.name);
            taken += 2 * values.len() as u64;
        }
        assert_eq!(found.len(), 1 + 4 * 3 + 1);
        let fetched = source.fetched().unwrap();
        // Headers and small files beside what was taken, in bf16.
        let others = 16 * (64 << 10);
        assert!(
            fetched.bytes <= taken + others,
            "{fetched} for {taken} bytes"
        );
    }
}
