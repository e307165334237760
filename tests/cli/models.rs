//! `firebox models`: what is known, and the page that shows it.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use crate::{
    common::repository,
    run::{json, succeed},
};

/// The page has the tables that the program prints. Catches a family, a dialect or a method that was added to one of the
/// two.
#[test]
fn the_page_of_models_is_what_the_program_prints() {
    let page = fs::read_to_string(repository().join("src/docs/models.md")).expect("a page");
    let printed = succeed(&["models"]).stdout;
    let (_, rest) = page.split_once("<!-- generated -->\n").expect("a mark");
    let (shown, _) = rest.split_once("<!-- end -->").expect("a mark");
    assert_eq!(
        shown.trim(),
        printed.trim(),
        "write the output of `firebox models` into the page"
    );
}

/// The README lists the same families. Catches one that was added to the program alone.
#[test]
fn the_readme_lists_the_families_that_the_program_knows() {
    let page = fs::read_to_string(repository().join("README.md")).expect("a page");
    let (_, rest) = page.split_once("<!-- families -->\n").expect("a mark");
    let (shown, _) = rest.split_once("<!-- end -->").expect("a mark");
    let shown = shown
        .split(',')
        .map(|name| name.trim().trim_matches('`').to_owned());
    let answer = json(&["models"]);
    let lists =
        ["families", "multimodal"].map(|list| answer[list].as_array().expect("a list").clone());
    let known = lists.iter().flatten().map(|one| &one["model_type"]);
    let known = known.map(|name| name.as_str().expect("a name").to_owned());
    assert_eq!(
        shown.collect::<Vec<_>>(),
        known
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
    );
}

/// Catches a family without a golden model, a golden model that is not there or is of another family, and an alias of
/// nothing.
#[test]
fn families_name_their_golden_models() {
    let answer = json(&["models"]);
    let families = answer["families"].as_array().expect("a list");
    let named = |name: &Value| families.iter().any(|family| family["model_type"] == *name);
    let mut listed = Vec::new();
    for family in families {
        let models = family["verified"].as_array().expect("a list");
        match &family["alias_of"] {
            Value::Null => assert!(!models.is_empty(), "{family}"),
            of => assert!(named(of), "{family}"),
        }
        for model in models {
            let model = model.as_str().expect("a name");
            let path = repository().join("tests/golden/models").join(model);
            let config = fs::read(path.join("config.json")).expect(model);
            let config: Value = serde_json::from_slice(&config).expect(model);
            let own = &config["model_type"];
            assert!(
                *own == family["model_type"]
                    || config["text_config"]["model_type"] == family["model_type"],
                "{model} is {own}"
            );
            listed.push(model.to_owned());
        }
    }
    let folders = fs::read_dir(repository().join("tests/golden/models")).expect("a folder");
    let folders = folders.map(|folder| folder.expect("a folder").file_name());
    let mut folders: Vec<String> = folders
        .map(|name| name.into_string().expect("UTF-8"))
        .collect();
    folders.sort();
    listed.sort();
    assert_eq!(listed, folders);
}

/// Catches a word that is listed and not understood.
#[test]
fn methods_that_are_listed_are_understood() {
    let answer = json(&["models"]);
    for method in answer["methods"].as_array().expect("a list") {
        let name = method["name"].as_str().expect("a word");
        let parsed = name.parse::<firebox::quant::QuantSpec>();
        assert!(parsed.is_ok_and(|spec| spec.method().is_some()), "{name}");
    }
    for dialect in answer["dialects"].as_array().expect("a list") {
        let name = dialect["name"].as_str().expect("a word");
        let written = name.parse::<firebox::config::To>().is_ok();
        assert_eq!(dialect["written"], written, "{name}");
    }
}
