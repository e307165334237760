//! What a GGUF file needs to know before its first weight is written.

use firebox_kernels::format::Format;

use super::engine::Engine;
use crate::{
    config::{SaveConfig, To},
    container::{self, GgufFile, GgufSource, GgufVocabulary, GgufWeight, WeightKind},
    dialect::dtype,
    error::Error,
    place::folder::dialect_of,
    plan::{Action, Plan, Step, listed},
    source::{StoredType, gguf::GgufType},
};

/// Files that a tokenizer may be made from.
const TOKENIZERS: [&str; 7] = [
    "tokenizer.json",
    "tekken.json",
    "tokenizer.model",
    "tiktoken.model",
    "spiece.model",
    "qwen.tiktoken",
    "vocab.json",
];

impl Engine {
    /// The GGUF file that a plan is saved to; `None` where it is saved to other files.
    pub(super) fn gguf_file(
        &self,
        plan: &mut Plan,
        to: &SaveConfig,
    ) -> Result<Option<GgufFile>, Error> {
        let checkpoint = self.checkpoint();
        let dialect = dialect_of(plan, to, checkpoint.float_dtype());
        if dialect != Some(To::Gguf) || to.is_for_cache() {
            return Ok(None);
        }
        let has_tokenizer = TOKENIZERS.iter().try_fold(false, |has, file| {
            Ok::<_, Error>(has || checkpoint.read_optional(file)?.is_some())
        })?;
        let tokenizer = match has_tokenizer {
            true => Some(self.tokenizer()?),
            false => None,
        };
        let json = tokenizer.as_ref().map(|tokenizer| tokenizer.json());
        let vocabulary = tokenizer.as_ref().zip(json.as_ref());
        let vocabulary = vocabulary.map(|(tokenizer, json)| GgufVocabulary {
            json,
            bos: tokenizer.bos(),
            eos: tokenizer.eos_ids(),
            pad: tokenizer.pad(),
            chat_template: (tokenizer.chat_template()).and_then(|template| template.usual()),
        });
        let label = checkpoint.source().describe();
        let has = |name: &str| checkpoint.catalog().get(name).is_some();
        let source = GgufSource {
            label: &label,
            config: checkpoint.config(),
            has: &has,
            untied: plan.untied.is_some() || plan.own_head.is_some(),
            vocabulary: vocabulary.as_ref(),
        };
        let names = plan.steps.iter().map(|step| &*step.slot.name);
        let beside = container::beside(&source, names)?;
        if !beside.is_empty() {
            plan.steps.retain(|step| !beside.contains(&step.slot.name));
            plan.notes.push(format!(
                "{} tensors are not of the text model, which a GGUF file has alone: {}",
                beside.len(),
                listed(&beside)
            ));
        }
        let moved = container::moved_columns(&source)?;
        let mut smaller = Vec::new();
        for step in &mut plan.steps {
            let head = moved.get(&step.slot.name);
            if let (Some(head), Action::Pack(quant, _)) = (head, &step.action) {
                let fitting = quant.fitting(*head);
                if fitting != *quant {
                    *step = step.clone().packed(&fitting)?;
                    smaller.push(step.slot.name.clone());
                }
            }
        }
        if !smaller.is_empty() {
            plan.notes.push(format!(
                "{} matrices have blocks that lie within a head, since their columns have another order in a GGUF file: {}",
                smaller.len(),
                listed(&smaller)
            ));
        }
        let weights = plan.steps.iter().map(|step| GgufWeight {
            name: &step.slot.name,
            kind: kind(step),
            shape: &step.slot.shape,
        });
        let weights: Vec<GgufWeight<'_>> = weights.collect();
        let mut file = GgufFile::new(&source, &weights)?;
        plan.notes.extend(file.note.take());
        Ok(Some(file))
    }
}

/// What a weight consists of when it is finished.
fn kind(step: &Step) -> WeightKind {
    let plain = |dtype| GgufType::plain(dtype).ok_or(dtype);
    match (&step.action, step.action.format()) {
        (_, Some(Format::Gguf(kind))) => Ok(GgufType::Blocks(kind)),
        (Action::Dense(float), _) => plain(dtype(*float)),
        _ => plain(
            step.tensors()
                .next()
                .map_or(StoredType::U8, |tensor| tensor.dtype),
        ),
    }
}
