//! Chat templates, rendered and compared with texts written out by hand.
//!
//! The templates are ours, in the spirit of three families: header tags (Llama 3), ChatML (Qwen) and
//! `[INST]` (Mistral).

#[path = "../common/counting.rs"]
mod counting;

mod corpus;
mod hostile;

use std::error::Error;

use counting::COUNTING;

use firebox::text::{
    ChatTemplate, GenerationPrompt, Message, Tokenizer, TokenizerError, TokenizerFiles,
};
use serde_json::{Value, json};

const TOKENIZER: &[u8] = include_bytes!("../golden/tokenizer/metaspace/tokenizer.json");

const LLAMA: &str = "\
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- bos_token }}
{%- if system %}
    {{- '<|start_header_id|>system<|end_header_id|>\n\n' + system + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content.strip() + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
";

const CHATML: &str = "\
{% if messages[0].role != 'system' %}
<|im_start|>system
You are helpful.<|im_end|>
{% endif %}
{% for message in messages %}
  {% if message.role == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}<|im_end|>
{% endgeneration %}
  {% else %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
  {% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}
{% endif %}
";

const MISTRAL: &str = "\
{%- set ns = namespace(system='') %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {%- if not loop.first %}{{ raise_exception('The system message must come first') }}{% endif %}
        {%- set ns.system = message['content'] + '\n\n' %}
        {%- continue %}
    {%- endif %}
    {%- if (message['role'] == 'user') != ((loop.index0 - (1 if ns.system else 0)) % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant, found ' + message['role'] + ' at ' ~ loop.index0) }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (ns.system if loop.last else '') + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}";

fn tokenizer(config: &Value, jinja: Option<&str>) -> Tokenizer {
    Tokenizer::from_bytes(TokenizerFiles {
        tokenizer_json: Some(TOKENIZER),
        config: Some(config.to_string().as_bytes()),
        chat_template_jinja: jinja.map(str::as_bytes),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

fn with_template(template: &str) -> Tokenizer {
    let config =
        json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template});
    tokenizer(&config, None)
}

fn apply(
    template: &str,
    messages: &[Message],
    prompt: GenerationPrompt,
) -> Result<String, TokenizerError> {
    with_template(template).apply_chat(messages, prompt)
}

/// A template that needs no messages.
fn render(template: &str) -> String {
    apply(template, &[], GenerationPrompt::Omit).unwrap()
}

fn conversation() -> Vec<Message> {
    vec![
        Message::user(" Hi "),
        Message::assistant("<think>hm</think>\n\nHello!"),
        Message::user("1 < 2 & 3?"),
    ]
}

/// The place where models of text and pictures keep their template; the other two come first. Would catch a template that
/// is there and not seen, and a stale one that counts.
#[test]
fn chat_template_json_is_the_last_place() {
    let open = |config: &str, jinja: Option<&str>| {
        let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: Some(TOKENIZER),
            config: Some(config.as_bytes()),
            chat_template_jinja: jinja.map(str::as_bytes),
            chat_template_json: Some(br#"{"chat_template": "json"}"#),
            ..TokenizerFiles::default()
        });
        let tokenizer = tokenizer.unwrap();
        tokenizer.apply_chat(&[], GenerationPrompt::Omit).unwrap()
    };
    assert_eq!(open("{}", None), "json");
    assert_eq!(open(r#"{"chat_template": null}"#, None), "json");
    assert_eq!(open(r#"{"chat_template": "config"}"#, None), "config");
    assert_eq!(
        open(r#"{"chat_template": "config"}"#, Some("jinja")),
        "jinja"
    );
}

/// Whitespace is part of the prompt: a lost newline after a header makes a model worse, silently.
#[test]
fn header_tags() {
    let text = apply(LLAMA, &conversation(), GenerationPrompt::Add).unwrap();
    assert_eq!(
        text,
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n<think>hm</think>\n\nHello!<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\n1 < 2 & 3?<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n"
    );
    let messages = [Message::system(" Be brief.\n"), Message::user("Hi")];
    let text = apply(LLAMA, &messages, GenerationPrompt::Omit).unwrap();
    assert_eq!(
        text,
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    );
}

/// Written on lines of its own, as templates in files are: without trimmed blocks every tag would leave
/// an empty line, and the indented ones spaces.
#[test]
fn chatml() {
    let text = apply(CHATML, &conversation(), GenerationPrompt::Add).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nYou are helpful.<|im_end|>\n\
         <|im_start|>user\n Hi <|im_end|>\n\
         <|im_start|>assistant\nHello!<|im_end|>\n\
         <|im_start|>user\n1 < 2 & 3?<|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

/// Variables of a model's own, such as the switch of Qwen 3.
#[test]
fn variables_reach_the_template() {
    let tokenizer = with_template(CHATML);
    let variables = json!({"enable_thinking": false});
    let text = tokenizer
        .chat_template()
        .unwrap()
        .apply_with(
            &[Message::system("S"), Message::user("U")],
            GenerationPrompt::Add,
            variables.as_object().unwrap(),
        )
        .unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n\
         <|im_start|>assistant\n<think>\n\n</think>\n\n"
    );
}

/// `continue`, `namespace` and both spellings of a special token.
#[test]
fn inst() {
    let text = apply(MISTRAL, &conversation(), GenerationPrompt::Omit).unwrap();
    assert_eq!(
        text,
        "<s>[INST]  Hi  [/INST] <think>hm</think>\n\nHello!</s>[INST] 1 < 2 & 3? [/INST]"
    );
    let messages = [Message::system("Be brief."), Message::user("Hi")];
    let text = apply(MISTRAL, &messages, GenerationPrompt::Add).unwrap();
    assert_eq!(text, "<s>[INST] Be brief.\n\nHi [/INST]");
}

/// The template's own words must reach the person, not the engine's.
#[test]
fn a_template_can_refuse() {
    let cases = [
        (
            vec![Message::user("a"), Message::user("b")],
            "Roles must alternate user/assistant, found user at 1",
        ),
        (
            vec![Message::user("a"), Message::system("b")],
            "The system message must come first",
        ),
    ];
    for (messages, words) in cases {
        match apply(MISTRAL, &messages, GenerationPrompt::Add) {
            Err(TokenizerError::Refused { message }) => assert_eq!(message, words),
            other => panic!("{other:?}"),
        }
    }
    // From inside a macro the error is wrapped once more.
    let template = "{% macro no() %}{{ raise_exception('no') }}{% endmacro %}{{ no() }}";
    let error = apply(template, &[], GenerationPrompt::Omit).unwrap_err();
    assert!(
        matches!(error, TokenizerError::Refused { ref message } if message == "no"),
        "{error:?}"
    );
}

/// The file and the engine's reason, both. A template that does not compile does not keep the tokenizer
/// from being opened.
#[test]
fn a_broken_template_is_an_error_with_its_cause() {
    for template in [
        "{% if %}",
        "{% for x in y %}",
        "{{ messages[0].nothing.more }}",
        "{{ 'a'.no_such() }}",
    ] {
        match apply(template, &conversation(), GenerationPrompt::Omit) {
            Err(ref error @ TokenizerError::Template { ref file, .. }) => {
                assert_eq!(file, "tokenizer_config.json");
                assert!(error.source().is_some());
            }
            other => panic!("{template}: {other:?}"),
        }
    }
}

/// The file is newer than the configuration beside it.
#[test]
fn the_file_wins_over_the_configuration() {
    let config = json!({"chat_template": "from the configuration"});
    let tokenizer = tokenizer(&config, Some("from the file"));
    let text = tokenizer.apply_chat(&[], GenerationPrompt::Add).unwrap();
    assert_eq!(text, "from the file");
}

/// Command R and its like have several; which one is taken depends on tools, as in transformers.
#[test]
fn named_templates() {
    let list = json!([
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "{{ tools | length }} tools"},
    ]);
    let tokenizer = tokenizer(&json!({"chat_template": list}), None);
    let template = tokenizer.chat_template().unwrap();
    assert_eq!(
        template.names().collect::<Vec<_>>(),
        ["default", "tool_use"]
    );
    assert_eq!(template.apply(&[], GenerationPrompt::Add).unwrap(), "plain");
    let variables = json!({"tools": [{}, {}]});
    let text = template.apply_with(&[], GenerationPrompt::Add, variables.as_object().unwrap());
    assert_eq!(text.unwrap(), "2 tools");
}

/// Newer checkpoints keep named templates in a folder, and these count instead of the configuration, as in transformers.
#[test]
fn templates_of_a_folder() {
    let open = |jinja: Option<&str>, named: &[(&str, &[u8])]| {
        let tokenizer = Tokenizer::from_bytes(TokenizerFiles {
            tokenizer_json: Some(TOKENIZER),
            config: Some(br#"{"chat_template": "config"}"#),
            chat_template_jinja: jinja.map(str::as_bytes),
            additional_chat_templates: named,
            ..TokenizerFiles::default()
        });
        tokenizer.unwrap().chat_template().unwrap().clone()
    };
    let named: [(&str, &[u8]); 2] = [("rag", b"{{ documents | length }}"), ("tool_use", b"tools")];
    let both = open(Some("plain"), &named);
    assert_eq!(
        both.names().collect::<Vec<_>>(),
        ["default", "rag", "tool_use"]
    );
    assert_eq!(both.apply(&[], GenerationPrompt::Add).unwrap(), "plain");
    let variables = json!({"tools": [{}], "documents": [1, 2]});
    let apply = |template: &ChatTemplate| {
        template.apply_with(&[], GenerationPrompt::Add, variables.as_object().unwrap())
    };
    assert_eq!(apply(&both).unwrap(), "tools");
    assert_eq!(apply(&both.named("rag").unwrap()).unwrap(), "2");
    assert!(both.named("no such").is_none());
    match apply(&open(None, &named[..1])) {
        Err(TokenizerError::NoDefaultTemplate { file, names }) => {
            assert_eq!(
                (file.as_str(), names),
                ("additional_chat_templates", vec!["rag".to_owned()])
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(apply(&open(None, &[])).unwrap(), "config");
}

/// The names that there are tell what to do next.
#[test]
fn a_missing_template_is_said_so() {
    let none = tokenizer(&json!({"chat_template": null}), None);
    assert!(none.chat_template().is_none());
    let error = none.apply_chat(&[], GenerationPrompt::Add).unwrap_err();
    assert!(matches!(error, TokenizerError::NoChatTemplate), "{error:?}");

    let other = tokenizer(
        &json!({"chat_template": [{"name": "rag", "template": ""}]}),
        None,
    );
    match other.apply_chat(&[], GenerationPrompt::Add) {
        Err(TokenizerError::NoDefaultTemplate { file, names }) => {
            assert_eq!(names, ["rag"]);
            assert_eq!(file, "tokenizer_config.json");
        }
        other => panic!("{other:?}"),
    }
}

/// The engine's own `tojson` writes `<` as `\u003c` and sorts keys; Python does neither. The expected
/// texts are those of `json.dumps(..., ensure_ascii=False)`.
#[test]
fn tojson_is_that_of_python() {
    let value =
        json!({"z": [1, 2.5, "é<&'\"\n\u{1}"], "a": {"t": true, "n": null}, "e": [], "o": {}});
    let cases = [
        (
            "x | tojson",
            r#"{"z": [1, 2.5, "é<&'\"\n\u0001"], "a": {"t": true, "n": null}, "e": [], "o": {}}"#,
        ),
        (
            "x | tojson(sort_keys=true, ensure_ascii=True)",
            r#"{"a": {"n": null, "t": true}, "e": [], "o": {}, "z": [1, 2.5, "\u00e9<&'\"\n\u0001"]}"#,
        ),
        (
            "x | tojson(separators=(',', ':'))",
            r#"{"z":[1,2.5,"é<&'\"\n\u0001"],"a":{"t":true,"n":null},"e":[],"o":{}}"#,
        ),
        (
            "x.a | tojson(indent=4)",
            "{\n    \"t\": true,\n    \"n\": null\n}",
        ),
        (
            "messages[0] | tojson",
            r#"{"role": "user", "content": "🙂"}"#,
        ),
    ];
    for (expression, expected) in cases {
        let tokenizer = with_template(&format!("{{{{ {expression} }}}}"));
        let variables = json!({"x": value});
        let text = tokenizer.chat_template().unwrap().apply_with(
            &[Message::user("🙂")],
            GenerationPrompt::Omit,
            variables.as_object().unwrap(),
        );
        assert_eq!(text.unwrap(), expected, "{expression}");
    }
}

/// Small things that templates rely on and that differ between engines. Expected: Jinja2's answers.
#[test]
fn small_things_are_those_of_python() {
    let cases = [
        ("{{ true }} {{ none }} {{ 1.0 }}", "True None 1.0"),
        ("{{ missing }}|{{ missing is defined }}", "|False"),
        ("{{ tools is none }} {{ documents is none }}", "True True"),
        ("{{ 'abc'[::-1] }} {{ [1, 2, 3][-1] }}", "cba 3"),
        (
            "{{ 'a-b'.split('-') | join('+') }} {{ 'x'.upper() }}",
            "a+b X",
        ),
        (
            "{{ 'abc'.startswith('ab') and 'abc'.endswith('c') }}",
            "True",
        ),
        (
            "{% for x in [1, 2, 3] %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}",
            "1",
        ),
        (
            "{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}",
            "a=1",
        ),
        (
            "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x is defined }}",
            "1False",
        ),
        ("{{ '%s' | format('<b>') }}", "<b>"),
        ("line\n", "line"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template), expected, "{template}");
    }
}

/// Llama 3.1 writes the date of the day into its system prompt.
#[test]
fn the_date_is_known() {
    let text = render("{{ strftime_now('%d %b %Y') }}");
    let parts: Vec<&str> = text.split(' ').collect();
    assert_eq!(parts.len(), 3, "{text}");
    assert!(parts[2].parse::<u32>().unwrap() >= 2025, "{text}");
    let error = apply("{{ strftime_now('%Q') }}", &[], GenerationPrompt::Omit).unwrap_err();
    assert!(
        matches!(error, TokenizerError::Template { .. }),
        "{error:?}"
    );
}
