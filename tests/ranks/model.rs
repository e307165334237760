//! A Llama whose heads, features and vocabulary divide among two, three and four ranks, and what ranks keep of it.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use firebox::{
    Cpu, Error, LoadConfig, LoadedPart, Loader,
    config::Parallel,
    model::CausalLm,
    pipeline::Finished,
    plan::Step,
    source::{Memory, Source},
};
use half::bf16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

pub(crate) const FEATURES: usize = 128;
const HEAD: usize = 64;
const INNER: usize = 768;
const VOCABULARY: usize = 384;
pub(crate) const LAYERS: usize = 4;
const FILE: &str = "model.safetensors";

/// Twelve query heads, `key_heads` key heads.
pub(crate) fn llama(key_heads: usize, tied: bool) -> Arc<Memory> {
    let (q, kv) = (12 * HEAD, key_heads * HEAD);
    let mut tensors = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![VOCABULARY, FEATURES],
        ),
        ("model.norm.weight".to_owned(), vec![FEATURES]),
    ];
    if !tied {
        tensors.push(("lm_head.weight".to_owned(), vec![VOCABULARY, FEATURES]));
    }
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            let name = format!("model.layers.{layer}.{name}");
            tensors.push((name, shape.to_vec()));
        };
        add("self_attn.q_proj.weight", &[q, FEATURES]);
        add("self_attn.k_proj.weight", &[kv, FEATURES]);
        add("self_attn.v_proj.weight", &[kv, FEATURES]);
        add("self_attn.o_proj.weight", &[FEATURES, q]);
        add("mlp.gate_proj.weight", &[INNER, FEATURES]);
        add("mlp.up_proj.weight", &[INNER, FEATURES]);
        add("mlp.down_proj.weight", &[FEATURES, INNER]);
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(&format!("{norm}.weight"), &[FEATURES]);
        }
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": FEATURES,
        "intermediate_size": INNER,
        "num_attention_heads": 12,
        "num_key_value_heads": key_heads,
        "head_dim": HEAD,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
    });
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .enumerate()
        .map(|(nth, (name, shape))| {
            let values = noise(shape.iter().product(), nth as u32 + 1);
            let bytes = values.flat_map(|value| bf16::from_f32(value).to_le_bytes());
            (name, shape, bytes.collect())
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::BF16, shape.clone(), bytes);
        (name.as_str(), view.expect("shape and bytes agree"))
    });
    let file = safetensors::serialize(views, None).expect("a file");
    let config = config.to_string().into_bytes();
    Arc::new(Memory::new().with("config.json", config).with(FILE, file))
}

/// Values around 0, a few of them large.
fn noise(len: usize, seed: u32) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    (0..len).map(move |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let value = (state % 2001) as f32 / 1000.0 - 1.0;
        value * value * value * 0.1
    })
}

/// What one rank keeps.
pub(crate) fn part(
    source: &Arc<Memory>,
    quant: &str,
    parallel: Parallel,
    [rank, ranks]: [usize; 2],
) -> Result<LoadedPart, Error> {
    let source: Arc<dyn Source> = source.clone();
    let config = LoadConfig::default()
        .quant(quant.parse().expect("a quantization"))
        .rank(rank)
        .world_size(ranks)
        .parallel(parallel);
    Loader::<Cpu>::new(config.source(source))?.load_part::<CausalLm>()
}

/// What all ranks keep.
pub(crate) fn parts(
    source: &Arc<Memory>,
    quant: &str,
    parallel: Parallel,
    ranks: usize,
) -> Vec<LoadedPart> {
    let parts = (0..ranks).map(|rank| part(source, quant, parallel, [rank, ranks]));
    parts
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{quant}, {parallel}, {ranks} ranks: {error}"))
}

/// What a process alone has.
pub(crate) fn alone(source: &Arc<Memory>, quant: &str) -> BTreeMap<String, (Step, Finished)> {
    parts(source, quant, Parallel::Replicate, 1)
        .remove(0)
        .weights
}

/// Codes, scales and dense values of a finished weight, in bytes.
pub(crate) fn buffers(weight: &Finished) -> [Vec<u8>; 2] {
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
    match weight {
        Finished::Dense(dense) => [dense.bytes().to_vec(), Vec::new()],
        Finished::Packed(packed) => [bytes(&packed.words), bytes(&packed.scales)],
        Finished::Share(share) => [share.values.clone(), share.scales.clone()],
        other => panic!("{other:?}"),
    }
}

/// How often the ranks have read each byte of the tensors, by tensor: the fewest, the most, and all of them together.
pub(crate) fn read(source: &Memory, parts: &[LoadedPart]) -> BTreeMap<String, [u64; 3]> {
    let size = source.size(FILE).expect("it is there") as usize;
    let mut count = vec![0_u64; size];
    for part in parts {
        let report = part.report.rank.as_ref().expect("a rank");
        for range in &report.ranges {
            assert_eq!(range.file, FILE);
            let bytes = range.first as usize..=range.last as usize;
            count[bytes].iter_mut().for_each(|count| *count += 1);
        }
    }
    let mut file = vec![0; size];
    source.read_at(FILE, 0, &mut file).expect("it is there");
    let (header, metadata) = SafeTensors::read_metadata(&file).expect("a file");
    let base = 8 + header;
    let of = |range: Range<usize>| {
        let count = &count[base + range.start..base + range.end];
        let [fewest, most] =
            [count.iter().min(), count.iter().max()].map(|it| *it.expect("a byte"));
        [fewest, most, count.iter().sum()]
    };
    let tensors = metadata.tensors().into_iter();
    tensors
        .map(|(name, info)| {
            let (start, end) = info.data_offsets;
            (name, of(start..end))
        })
        .collect()
}
