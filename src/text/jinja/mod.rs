//! Jinja2 as chat templates use it: the language, the filters and Python's methods, within bounds.
//!
//! ```text
//! source ─► lexer ─► parser ─► tree ─► run ─► text
//!                                       │
//!               meter ◄── pays ◄───────┤ filters, tests, methods, operators
//! ```
//!
//! A template is a program of somebody else. Every step and every byte that it makes is paid for before ([`meter`]), and
//! every value is a tree of bounded size and depth ([`value`]), so that a template ends with a text or an error.

mod access;
mod arguments;
mod ast;
mod error;
mod filters;
mod functions;
mod lexer;
mod meter;
mod methods;
mod names;
mod ops;
mod parser;
mod predicates;
mod printf;
mod run;
mod sort;
mod strftime;

mod datum;
mod text;
mod tojson;

use std::{ops::Range, rc::Rc};

use serde_json::{Map, Value as Json};

pub(super) use self::error::JinjaError;
use self::{
    datum::{Datum, Dict},
    error::Result,
    meter::Meter,
    run::Rendering,
};

/// The text of a template.
#[derive(Debug)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// The bytes of the `generation` blocks. `None` where the template has none, or where the place of one is not known, since it
    /// lies in a macro or in a block that is set.
    pub(crate) answers: Option<Vec<Range<usize>>>,
}

/// Runs a template with some variables. `now` is the time in seconds since 1970.
pub(super) fn render(source: &str, variables: &Map<String, Json>, now: u64) -> Result<Rendered> {
    let (body, marks) = parser::parse(source)?;
    let input = variables
        .iter()
        .map(|(name, value)| name.len() as u64 + bytes(value))
        .sum();
    let meter = Meter::new(input);
    let given = variables
        .iter()
        .map(|(name, value)| Ok((Rc::from(name.as_str()), value_of(value, &meter)?)));
    let given = given.collect::<Result<_>>()?;
    let (text, answers) = Rendering::new(&meter, given, now).template(&body)?;
    let answers = answers.filter(|_| marks);
    Ok(Rendered { text, answers })
}

/// Bytes that a value of JSON has as text, roughly.
fn bytes(json: &Json) -> u64 {
    match json {
        Json::String(text) => text.len() as u64,
        Json::Array(list) => list.iter().map(|item| bytes(item) + 2).sum(),
        Json::Object(map) => map
            .iter()
            .map(|(key, value)| key.len() as u64 + bytes(value) + 4)
            .sum(),
        _ => 8,
    }
}

fn value_of(json: &Json, meter: &Meter) -> Result<Datum> {
    Ok(match json {
        Json::Null => Datum::None,
        Json::Bool(value) => Datum::Bool(*value),
        Json::Number(number) => match number.as_i128() {
            Some(value) => Datum::Int(value),
            None => Datum::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Datum::from(text.as_str()),
        Json::Array(list) => Datum::list(
            list.iter()
                .map(|item| value_of(item, meter))
                .collect::<Result<_>>()?,
            meter,
        )?,
        Json::Object(map) => {
            let entries = map
                .iter()
                .map(|(key, value)| Ok((Datum::from(key.as_str()), value_of(value, meter)?)));
            Datum::Dict(Dict::new(entries.collect::<Result<_>>()?, meter)?)
        }
    })
}
