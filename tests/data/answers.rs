//! Which tokens of a chat are trained on.

use std::sync::Arc;

use firebox::{
    text::{Tokenizer, TokenizerFiles},
    train::{Data, DataConfig, RowPacking},
};
use serde_json::{Value, json};

use crate::{Files, pass, with_template};

const GOLDEN: &str = include_str!("../golden/answers.json");

/// A family of models, with one of its templates.
struct Family {
    tokenizer: Arc<Tokenizer>,
    date: u64,
}

impl Family {
    /// The shipped tokenizer with the tokens of a family.
    fn new(golden: &Value, name: &str, form: &str) -> Self {
        let family = &golden["families"][name];
        let config = family["config"].to_string();
        let files = TokenizerFiles {
            tokenizer_json: Some(include_bytes!("../../assets/tinyrust/tokenizer.json")),
            config: Some(config.as_bytes()),
            model_config: Some(&json!({"eos_token_id": family["ends"]})),
            chat_template_jinja: Some(family[form].as_str().expect("a template").as_bytes()),
            ..TokenizerFiles::default()
        };
        Self {
            tokenizer: Arc::new(Tokenizer::from_bytes(files).expect("a tokenizer")),
            date: golden["date"].as_u64().expect("a time"),
        }
    }

    /// Has the data of one record read.
    fn read<T>(&self, record: &Value, read: impl FnOnce(&Data) -> T) -> T {
        let files = Files::new().with("a.jsonl", record.to_string());
        let config = DataConfig {
            date: self.date,
            ..files.config(4096)
        };
        let data = Data::open(config, Arc::clone(&self.tokenizer)).expect("data");
        read(&data)
    }

    /// Tokens and labels of a chat, up to the last label.
    fn labelled(&self, record: &Value) -> (Vec<u32>, Vec<Option<u32>>) {
        let batches = self.read(record, pass);
        let [batch] = &batches[..] else {
            panic!("{} batches", batches.len());
        };
        (batch.ids().to_vec(), batch.labels().to_vec())
    }

    /// The same as text, with marks around what is trained on.
    fn shown(&self, record: &Value) -> String {
        self.read(record, |data| data.example().expect("an example"))
    }
}

fn golden() -> Value {
    serde_json::from_str(GOLDEN).expect("JSON")
}

/// The same from the ids and the mask of transformers.
fn expected(chat: &Value, mask: &str) -> (Vec<u32>, Vec<Option<u32>>) {
    let ids = chat["ids"].as_array().expect("ids").iter();
    let ids: Vec<u32> = ids.map(|id| id.as_u64().expect("an id") as u32).collect();
    let last = mask.rfind('1').expect("a trained token");
    let trained = mask
        .bytes()
        .zip(&ids)
        .map(|(mask, id)| (mask == b'1').then_some(*id));
    (
        ids[..last].to_vec(),
        trained.take(last + 1).skip(1).collect(),
    )
}

/// Tokens and labels are those of transformers, where a template marks answers itself, and where they are found by comparison.
#[test]
fn answers_are_those_of_transformers() {
    let golden = golden();
    let mut compared = Vec::new();
    for (form, field) in [("marked", "marked"), ("stock", "trained")] {
        let mut count = 0;
        for (name, values) in golden["families"].as_object().expect("families") {
            let family = Family::new(&golden, name, form);
            for chat in values["chats"].as_array().expect("chats") {
                let Some(mask) = chat[field].as_str() else {
                    continue;
                };
                let record = json!({"messages": chat["messages"]});
                assert_eq!(
                    family.labelled(&record),
                    expected(chat, mask),
                    "{name}, {form}, {}: {}",
                    chat["name"],
                    family.shown(&record)
                );
                count += 1;
            }
        }
        compared.push(count);
    }
    assert_eq!(compared, [67, 57]);
}

/// Qwen 3 removes the thoughts of answers once another question follows, and writes an empty thought where there is none.
#[test]
fn history_that_is_rewritten_is_found() {
    let qwen = Family::new(&golden(), "qwen3", "stock");
    let messages = json!([
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>\nOne and one.\n</think>\n\n2"},
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "<think>\nTwo.\n</think>\n\n4"},
    ]);
    let first = "<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n";
    let second = "\n<|im_start|>user\n2+2<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(
        qwen.shown(&json!({"messages": messages})),
        format!("{first}⟦2<|im_end|>⟧{second}⟦<think>\nTwo.\n</think>\n\n4<|im_end|>⟧")
    );
    // The same chat without its last answer: the first one keeps no thought, since a question follows.
    let begun = &messages.as_array().expect("a list")[..3];
    assert_eq!(
        qwen.shown(&json!({"messages": begun})),
        format!("{first}⟦2<|im_end|>⟧")
    );
    let plain = json!([{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]);
    assert_eq!(
        qwen.shown(&json!({"messages": plain})),
        format!("{first}⟦<think>\n\n</think>\n\n2<|im_end|>⟧")
    );
    // Where the prompt of generation has the empty thought, it is not trained on.
    let record = json!({"messages": plain, "chat_template_kwargs": {"enable_thinking": false}});
    assert_eq!(
        qwen.shown(&record),
        format!("{first}<think>\n\n</think>\n\n⟦2<|im_end|>⟧")
    );
}

/// The prompt of generation of DeepSeek R1 begins a thought that the text of an answer does not have.
#[test]
fn a_prompt_that_the_text_lacks_is_not_looked_for() {
    let deepseek = Family::new(&golden(), "deepseekv3", "stock");
    let messages = json!([
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "<think>One.</think>2"},
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "4"},
    ]);
    assert_eq!(
        deepseek.shown(&json!({"messages": messages})),
        "<｜begin▁of▁sentence｜><｜User｜>1+1<｜Assistant｜>⟦2<｜end▁of▁sentence｜>⟧<｜User｜>2+2<｜Assistant｜>⟦4<｜end▁of▁sentence｜>⟧"
    );
}

/// Forms of chats, with one meaning.
#[test]
fn chats_are_written_in_several_ways() {
    let llama = Family::new(&golden(), "llama3", "stock");
    let header = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
    let [system, user, assistant] = ["system", "user", "assistant"].map(header);
    let text = |answers: [&str; 2]| {
        format!(
            "<|begin_of_text|>{system}Be short.<|eot_id|>{user}Why?<|eot_id|>{assistant}{}{user}So?<|eot_id|>{assistant}{}",
            answers[0], answers[1]
        )
    };
    let both = text(["⟦Because.<|eot_id|>⟧", "⟦Yes.<|eot_id|>⟧"]);
    let last = text(["Because.<|eot_id|>", "⟦Yes.<|eot_id|>⟧"]);
    let first =
        text(["⟦Because.<|eot_id|>⟧", ""]).replace(&format!("{user}So?<|eot_id|>{assistant}"), "");

    let messages = [
        json!({"role": "system", "content": "Be short."}),
        json!({"role": "user", "content": "Why?"}),
        json!({"role": "assistant", "content": "Because."}),
        json!({"role": "user", "content": "So?"}),
        json!({"role": "assistant", "content": "Yes."}),
    ];
    assert_eq!(llama.shown(&json!({"messages": messages, "id": 7})), both);
    let turns: Vec<Value> = [
        ("system", "Be short."),
        ("human", "Why?"),
        ("gpt", "Because."),
        ("human", "So?"),
        ("gpt", "Yes."),
    ]
    .map(|(from, value)| json!({"from": from, "value": value}))
    .to_vec();
    assert_eq!(llama.shown(&json!({"conversations": turns})), both);
    assert_eq!(llama.shown(&json!({"conversations": messages})), both);

    // Answers that are not trained on: of the prompt, and those that say so.
    let record = json!({"prompt": messages[..4], "completion": messages[4..]});
    assert_eq!(llama.shown(&record), last);
    let mut weighted = messages.clone();
    weighted[2]["weight"] = json!(0);
    weighted[4]["weight"] = json!(1.0);
    assert_eq!(llama.shown(&json!({"messages": weighted})), last);
    // An answer without a word is none.
    weighted[2]["weight"] = json!(1);
    weighted[4]["content"] = json!(" ");
    assert_eq!(llama.shown(&json!({"messages": weighted})), first);
    // Blocks of a template are chosen in the same way.
    let marked = Family::new(&golden(), "llama3", "marked");
    assert_eq!(marked.shown(&json!({"messages": messages})), both);
    assert_eq!(marked.shown(&record), last);

    let task = json!({"instruction": "Add.", "input": "1, 2", "output": "3"});
    assert_eq!(
        llama.shown(&task),
        format!("<|begin_of_text|>{user}Add.\n\n1, 2<|eot_id|>{assistant}⟦3<|eot_id|>⟧")
    );
}

/// A prompt and its completion are one text, whose end is trained on.
#[test]
fn completions_are_trained_on_without_their_prompts() {
    let plain = |record: &Value| {
        let files = Files::new().with("a.jsonl", record.to_string());
        files
            .open(512)
            .expect("data")
            .example()
            .expect("an example")
    };
    assert_eq!(
        plain(&json!({"prompt": "fn main()", "completion": " {}"})),
        "<|begin|>fn main()⟦ {}<|end|>⟧"
    );
    // A token that both have a part of: ` yes`.
    assert_eq!(
        plain(&json!({"prompt": "let x = ", "completion": "yes"})),
        "<|begin|>let x =⟦ yes<|end|>⟧"
    );
    assert_eq!(
        plain(&json!({"instruction": "Add.", "input": "", "output": "3"})),
        "<|begin|>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n\
         ### Instruction:\nAdd.\n\n### Response:⟦3<|end|>⟧"
    );
}

/// A chat that is too long keeps its beginning, and is left out without an answer in it.
#[test]
fn long_chats_lose_their_end() {
    let llama = Family::new(&golden(), "llama3", "stock");
    let chat = |words: usize| {
        json!({"messages": [
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "fn ".repeat(words)},
            {"role": "user", "content": "So?"},
            {"role": "assistant", "content": "Yes."},
        ]})
    };
    let whole = llama.labelled(&chat(30));
    let records = [
        chat(30),
        chat(1),
        json!({"messages": [{"role": "user", "content": "Hi"}]}),
    ];
    let lines = records.map(|record| record.to_string()).join("\n");
    let files = Files::new().with("a.jsonl", lines);
    let at = |length| {
        let config = DataConfig {
            packing: RowPacking::None,
            ..files.config(length)
        };
        Data::open(config, Arc::clone(&llama.tokenizer)).expect("data")
    };
    let prompt = whole.1.iter().position(Option::is_some).expect("a label");

    // The shorter chat fits.
    let length = llama.labelled(&chat(1)).0.len();
    let data = at(length);
    let counts = data.summary().expect("a summary").counts;
    assert_eq!(counts.documents, 3);
    assert_eq!(
        (counts.rows, counts.truncated, counts.without_answer),
        (2, 1, 1)
    );
    let first = &pass(&data)[0];
    assert_eq!(first.shape(), [1, length]);
    assert_eq!(
        (first.ids(), first.labels()),
        (&whole.0[..length], &whole.1[..length])
    );

    // One label is left of each.
    let data = at(prompt + 1);
    let counts = data.summary().expect("a summary").counts;
    assert_eq!((counts.rows, counts.trained, counts.truncated), (2, 2, 2));
    // None is: an error.
    let error = at(prompt).summary().expect_err("an error").to_string();
    assert!(
        error.ends_with("2 left out since no answer fits into a row"),
        "{error}"
    );
}

/// Templates whose answers cannot be found with certainty are refused, with the message and the remedy.
#[test]
fn answers_that_cannot_be_verified_are_refused() {
    let remedy = "; mark answers in the template with {% generation %} … {% endgeneration %}";
    for (template, reason) in [
        (
            "{% for m in messages %}{{ m.content | length }}{% endfor %}",
            "the template does not write it once and as it is",
        ),
        (
            "{{ messages[1].content }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "the template does not write it once and as it is",
        ),
        (
            "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[1].content | length }}",
            "the text after it depends on it",
        ),
        (
            "{{ messages | map(attribute='content') | join | length }}{% for m in messages %}{{ m.content }}{% endfor %}",
            "the text before it depends on it",
        ),
    ] {
        let record = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]});
        let files = Files::new().with("a.jsonl", format!("\n{record}"));
        let tokenizer = Arc::new(with_template(Some(template)));
        let data = Data::open(files.config(100), tokenizer).expect("data");
        let error = data.summary().expect_err("an error").to_string();
        let expected = format!(
            "a.jsonl, line 2: the place of message 2 (counted from 1) in the text of the chat cannot be verified: {reason}{remedy}"
        );
        assert!(error.ends_with(&expected), "{error}");
    }
}

/// Blocks in macros have no place in the text: the answers are found by comparison.
#[test]
fn blocks_in_macros_are_not_lost() {
    let plain = "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n{% endgeneration %}{% else %}\
                 {{ m.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let in_macro = format!(
        "{{% macro say(messages) %}}{}{{% endmacro %}}{{{{ say(messages) }}}}{{% if add_generation_prompt %}}assistant: {{% endif %}}",
        plain.split("{% if add").next().expect("a template")
    );
    let in_set = plain
        .replacen("{% for", "{% set text %}{% for", 1)
        .replacen("{% endfor %}", "{% endfor %}{% endset %}{{ text }}", 1);
    let record = json!({"messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b"},
    ]});
    for template in [plain, &in_macro, &in_set] {
        let files = Files::new().with("a.jsonl", record.to_string());
        let tokenizer = Arc::new(with_template(Some(template)));
        let data = Data::open(files.config(100), tokenizer).expect("data");
        let example = data.example().expect("an example");
        assert_eq!(
            example,
            "user: q\nassistant:⟦ a\n⟧user: r\nassistant:⟦ b\n⟧"
        );
    }
}
