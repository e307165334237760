//! Tests behind `is`.

use super::{
    arguments::Given,
    ast::Relation,
    datum::{Datum, a},
    error::{Result, fail},
    meter::Meter,
    names::{FILTERS, TESTS, is_in},
    ops::compare,
    text::str_of,
};

/// Whether a value passes a test.
pub(super) fn test(name: &str, value: &Datum, mut given: Given, meter: &Meter) -> Result<bool> {
    let operator = match name {
        "eq" | "equalto" | "==" => Some(Relation::Equal),
        "ne" | "!=" => Some(Relation::Unequal),
        "lt" | "lessthan" | "<" => Some(Relation::Less),
        "le" | "<=" => Some(Relation::LessEqual),
        "gt" | "greaterthan" | ">" => Some(Relation::Greater),
        "ge" | ">=" => Some(Relation::GreaterEqual),
        "in" => Some(Relation::In),
        _ => None,
    };
    let passes = match (name, operator) {
        (_, Some(operator)) => compare(operator, value, &given.need("other")?, meter)?,
        ("defined", _) => !value.is_undefined(),
        ("undefined", _) => value.is_undefined(),
        ("none", _) => matches!(value, Datum::None),
        ("boolean", _) => matches!(value, Datum::Bool(_)),
        ("true", _) => matches!(value, Datum::Bool(true)),
        ("false", _) => matches!(value, Datum::Bool(false)),
        ("integer", _) => matches!(value, Datum::Int(_)),
        ("float", _) => matches!(value, Datum::Float(_)),
        ("number", _) => value.as_float().is_some(),
        ("string", _) => matches!(value, Datum::Str(_)),
        ("sequence", _) => matches!(
            value,
            Datum::Str(_)
                | Datum::List(_)
                | Datum::Tuple(_)
                | Datum::Dict(_)
                | Datum::Range(..)
                | Datum::Undefined(_)
        ),
        ("iterable", _) => !matches!(
            value,
            Datum::None
                | Datum::Bool(_)
                | Datum::Int(_)
                | Datum::Float(_)
                | Datum::Namespace(_)
                | Datum::Macro(_)
                | Datum::Method(_)
                | Datum::Function(_)
        ),
        ("mapping", _) => matches!(value, Datum::Dict(_)),
        ("callable", _) => matches!(
            value,
            Datum::Macro(_)
                | Datum::Method(_)
                | Datum::Function(_)
                | Datum::Undefined(_)
                | Datum::Loop(_)
        ),
        ("sameas", _) => {
            let other = given.need("other")?;
            match (value, &other) {
                (Datum::Undefined(_), _) | (_, Datum::Undefined(_)) => false,
                (Datum::Bool(_), Datum::Bool(_))
                | (Datum::None, Datum::None)
                | (Datum::Int(_), Datum::Int(_))
                | (Datum::Str(_), Datum::Str(_)) => value.equals(&other, meter)?,
                (Datum::List(one), Datum::List(other)) => std::rc::Rc::ptr_eq(one, other),
                (Datum::Dict(one), Datum::Dict(other)) => std::rc::Rc::ptr_eq(one, other),
                (Datum::Namespace(one), Datum::Namespace(other)) => std::rc::Rc::ptr_eq(one, other),
                _ => false,
            }
        }
        ("odd" | "even" | "divisibleby", _) => {
            let number = match value.as_int() {
                Some(number) => number,
                None => match value {
                    Datum::Float(number) if number.fract() == 0.0 => *number as i128,
                    Datum::Float(_) => return Ok(false),
                    other => fail!("{name}: {} is no number", a(other.type_name())),
                },
            };
            match name {
                "divisibleby" => match number.checked_rem(given.int("num", 0)?) {
                    Some(rest) => rest == 0,
                    None => fail!("a division by zero"),
                },
                "odd" => number.rem_euclid(2) == 1,
                _ => number.rem_euclid(2) == 0,
            }
        }
        ("lower" | "upper", _) => {
            let text = str_of(value, meter)?;
            meter.bytes(text.len() as u64)?;
            let (has_lower, has_upper) = (
                text.chars().any(char::is_lowercase),
                text.chars().any(char::is_uppercase),
            );
            if name == "lower" {
                has_lower && !has_upper
            } else {
                has_upper && !has_lower
            }
        }
        ("escaped", _) => false,
        ("filter", _) => value.as_str().is_some_and(|name| is_in(FILTERS, name)),
        ("test", _) => value.as_str().is_some_and(|name| is_in(TESTS, name)),
        (other, _) => fail!("no test is called {other:?}"),
    };
    given.end()?;
    Ok(passes)
}
