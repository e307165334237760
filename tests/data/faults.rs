//! Data that cannot be trained on.

use std::sync::Arc;

use firebox::train::{Data, DataConfig, DataError, DataPosition};

use crate::{Files, lines, tokenizer, with_template};

const CHAT: &str =
    r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;

/// The message of an error, without the folder of the test.
fn fault(files: &Files) -> String {
    let found = files.open(100).and_then(|data| data.summary().map(drop));
    without_folder(files, &found.expect_err("an error"))
}

fn without_folder(files: &Files, error: &DataError) -> String {
    let folder = files.path("").display().to_string();
    error.to_string().replace(&folder, "")
}

#[test]
fn broken_records_are_named_with_their_lines() {
    let good = r#"{"text": "good"}"#;
    for (record, expected) in [
        (
            r#"{"text": "a"#,
            "EOF while parsing a string at line 1 column 11 of the record; expected one record a line, or in a .json file one list of records",
        ),
        (
            r#"{"text": "a"} {}"#,
            "trailing characters at line 1 column 15 of the record; expected one record a line, or in a .json file one list of records",
        ),
        ("[1]", "`record` is a list, expected an object"),
        ("3", "`record` is a number, expected an object"),
        (r#"{"text": 3}"#, "`text` is a number, expected a text"),
        (
            r#"{"txt": "a", "id": 1}"#,
            "none of the fields `text`, `messages`, `conversations`, `prompt` with `completion`, `instruction` with `output` is there; the record has `txt`, `id`",
        ),
        (
            "{}",
            "none of the fields `text`, `messages`, `conversations`, `prompt` with `completion`, `instruction` with `output` is there; the record has none",
        ),
        (
            r#"{"prompt": "a"}"#,
            "`completion` is missing beside `prompt`",
        ),
        (
            r#"{"output": "a"}"#,
            "`instruction` is missing beside `output`",
        ),
        (
            r#"{"prompt": "a", "completion": ["b"]}"#,
            "`completion` is a list, expected a text",
        ),
        (
            r#"{"instruction": "a", "input": 1, "output": "b"}"#,
            "`input` is a number, expected a text",
        ),
        (
            r#"{"messages": {}}"#,
            "`messages` is an object, expected a list of messages",
        ),
        (
            r#"{"messages": ["a"]}"#,
            "`messages[0]` is a text, expected an object",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"content": "a"}]}"#,
            "`messages[1].role` is null, expected a text",
        ),
        (
            r#"{"messages": [{"role": "user", "content": 1}]}"#,
            "`messages[0].content` is a number, expected a text",
        ),
        (
            r#"{"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}"#,
            "`weight of message 1` is another number, expected 0 (not trained on) or 1",
        ),
        (
            r#"{"messages": [], "tools": "a"}"#,
            "`tools` is a text, expected a list",
        ),
        (
            r#"{"conversations": [{"from": "narrator", "value": "a"}]}"#,
            "`conversations[0].from` is \"narrator\", expected human, gpt, system or tool",
        ),
        (
            r#"{"conversations": [{"from": "gpt"}]}"#,
            "`conversations[0].value` is null, expected a text",
        ),
        (
            CHAT,
            "the record is a chat, and the model has no chat template; put a chat_template.jinja beside the model, or write the record with `text`, or `prompt` and `completion`",
        ),
    ] {
        let files = Files::new().with("a.jsonl", format!("{good}\n\n{record}\n{good}\n"));
        assert_eq!(
            fault(&files),
            format!("a.jsonl, line 3: {expected}"),
            "{record}"
        );
        // Lines of JSON count in lists too.
        if serde_json::from_str::<serde_json::Value>(record).is_ok() {
            let files = Files::new().with("a.json", format!("[\n{good},\n  {record}\n,{good}]"));
            assert_eq!(
                fault(&files),
                format!("a.json, line 3: {expected}"),
                "{record}"
            );
        }
    }
}

#[test]
fn lists_that_are_broken_are_named_with_their_lines() {
    for (text, expected) in [
        (
            "[{\"text\": \"a\"},\n{\"text\": \"b\"}",
            "line 2: the list of records has no end",
        ),
        (
            "[{\"text\": \"a\"}]\n]",
            "line 2: the list has ended, and more follows",
        ),
        (
            "[{\"text\": \"a\"},\n,{\"text\": \"a\"}]",
            "line 2: a record is missing between commas",
        ),
        (
            "[{\"text\": \"a\"},\n]",
            "line 2: a record is missing between commas",
        ),
    ] {
        let files = Files::new().with("a.json", text);
        assert_eq!(fault(&files), format!("a.json, {expected}"), "{text}");
    }
}

#[test]
fn files_that_hold_nothing_are_named() {
    let empty = "a.txt: the file is empty; remove it or leave it out";
    for text in ["", " \n\t\n", "\u{feff}"] {
        let files = Files::new().with("a.txt", text).with("b.txt", "good");
        assert_eq!(fault(&files), empty, "{text:?}");
        let files = Files::new().with("a.jsonl", text).with("b.txt", "good");
        assert_eq!(fault(&files), empty.replace("txt", "jsonl"), "{text:?}");
    }
    let files = Files::new().with("a.json", "[ ]");
    assert_eq!(fault(&files), empty.replace("txt", "json"));
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let files = Files::new().with("a.txt", b"good\nb\xe4d\n");
    assert_eq!(
        fault(&files),
        "a.txt, line 1: the bytes from 6 on in the record are no UTF-8; convert the file"
    );
    let files = Files::new().with("a.jsonl", b"{\"text\": \"good\"}\n{\"text\": \"b\xe4d\"}\n");
    assert_eq!(
        fault(&files),
        "a.jsonl, line 2: the bytes from 11 on in the record are no UTF-8; convert the file"
    );
}

#[test]
fn paths_that_are_no_data_are_named() {
    let files = Files::new().with("a.parquet", "PAR1");
    let none = "no file ends with .txt, .md, .jsonl or .json; folders in it are not looked into";
    assert!(fault(&files).ends_with(none), "{}", fault(&files));
    let open = |paths: &[&str]| {
        let config = DataConfig::new(paths.iter().map(|path| files.path(path)));
        let error = Data::open(config, tokenizer()).expect_err("an error");
        without_folder(&files, &error)
    };
    assert_eq!(
        open(&["a.parquet"]),
        "a.parquet: expected a name that ends with .txt or .md (text), .jsonl or .json (records)"
    );
    assert!(open(&["missing.txt"]).starts_with("missing.txt: No such file"));
    assert_eq!(open(&[]), "no data: give a file or a folder");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/dev/zero", files.path("zero.txt")).expect("a link");
        assert_eq!(
            open(&["zero.txt"]),
            "zero.txt: is no file that can be read more than once"
        );
        assert!(fault(&files).ends_with(none), "{}", fault(&files));
    }
}

#[test]
fn numbers_that_make_no_rows_are_named() {
    let files = Files::new().with("a.txt", "good");
    for (length, batch, expected) in [
        (0, 1, "`length` is 0, expected 1 to 4294967295"),
        (1, 0, "`batch` is 0, expected 1 to 4294967295"),
    ] {
        let config = DataConfig {
            batch,
            ..files.config(length)
        };
        let error = Data::open(config, tokenizer()).expect_err("an error");
        assert_eq!(error.to_string(), expected);
    }
}

/// What a folder holds beside data is named in the summary.
#[test]
fn other_files_of_a_folder_are_named() {
    let files = Files::new()
        .with("b.txt", "good")
        .with("a.md", "good")
        .with("c.csv", "1,2");
    let summary = files.open(100).expect("data").summary().expect("a summary");
    assert_eq!(summary.files, 2);
    assert_eq!(summary.ignored, [files.path("c.csv")]);
    assert!(
        summary.to_string().ends_with("; 1 files ignored"),
        "{summary}"
    );
}

/// Nothing to train on is an error before the first step, and one of a pass and of a run.
#[test]
fn data_without_a_label_are_refused() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let tokenizer = Arc::new(with_template(Some(template)));
    let question = r#"{"messages": [{"role": "user", "content": "q"}]}"#;
    let long = format!(
        r#"{{"messages": [{{"role": "user", "content": "{}"}}, {{"role": "assistant", "content": "a"}}]}}"#,
        "long ".repeat(200)
    );
    let lines = [question, &long, r#"{"text": " "}"#].join("\n");
    let files = Files::new().with("a.jsonl", lines);
    let data = Data::open(files.config(50), Arc::clone(&tokenizer)).expect("data");
    let expected = "no token of the data can be trained on: 3 documents in 1 files: 0 tokens, 0 trained, in 0 rows of 50 (0.0 % full); \
                    1 left out without text; 1 left out without an answer; 1 left out since no answer fits into a row";
    assert_eq!(data.summary().expect_err("an error").to_string(), expected);
    assert_eq!(data.example().expect_err("an error").to_string(), expected);
    for mut batches in [data.pass(), data.batches(Default::default())].map(Result::unwrap) {
        let error = batches.next().expect("an item").expect_err("an error");
        assert_eq!(error.to_string(), expected);
        assert!(batches.next().is_none());
    }
}

/// A file that changes after it was opened gives an error, not other tokens.
#[test]
fn a_file_that_shrinks_is_an_error() {
    let files = Files::new().with("a.jsonl", lines(300));
    let data = files.open(100).expect("data");
    let files = files.with("a.jsonl", lines(10));
    let error = data.summary().expect_err("an error");
    assert!(matches!(error, DataError::File { .. }), "{error}");
    drop(files);
}

/// Positions that no run has: those of a file that was changed.
#[test]
fn positions_beyond_the_data_are_refused() {
    let files = Files::new().with("a.jsonl", lines(5));
    let data = files.open(16).expect("data");
    let last = u64::MAX;
    for (field, [epoch, document, row]) in [
        ("epoch", [last, 0, 0]),
        ("document", [0, 5, 0]),
        ("document", [0, last, last]),
        ("row", [0, 0, last]),
    ] {
        let position = DataPosition {
            epoch,
            document,
            row,
        };
        let error = data.batches(position).expect_err("an error").to_string();
        assert!(
            error.starts_with(&format!("the position is {field} ")),
            "{error}"
        );
    }
}
