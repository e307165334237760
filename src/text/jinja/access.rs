//! Attributes, subscripts and slices, as Python has them.

use std::rc::Rc;

use super::{
    ast::Name,
    datum::Datum,
    error::{JinjaError, Result, fail},
    meter::Meter,
    names::has_method,
    text::write_repr,
};

/// `value.name`: first what the type has, then what a dictionary holds.
pub(super) fn attribute(value: &Datum, name: &Name) -> Result<Datum> {
    if has_method(value, name) {
        return Ok(Datum::Method(Rc::new((value.clone(), Rc::clone(name)))));
    }
    let found = match value {
        Datum::Undefined(name) => return Err(undefined(name)),
        Datum::Dict(dict) => dict.named(name).cloned(),
        other => own_attribute(other, name),
    };
    Ok(found.unwrap_or_else(|| lacking(value, name)))
}

/// Attributes that are no methods.
fn own_attribute(value: &Datum, name: &Name) -> Option<Datum> {
    match value {
        Datum::Namespace(namespace) => {
            let entries = namespace.entries.borrow();
            let (_, value) = entries.iter().find(|(found, _)| found == name)?;
            Some(value.clone())
        }
        Datum::Loop(state) => state.attribute(name),
        Datum::Macro(found) if &**name == "name" => Some(Datum::Str(Rc::clone(&found.def.name))),
        // What `groupby` gives.
        Datum::Tuple(items) => match (&**name, items.values()) {
            ("grouper", [key, _]) => Some(key.clone()),
            ("list", [_, list]) => Some(list.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn lacking(value: &Datum, name: &str) -> Datum {
    Datum::undefined(format!("{}.{name}", value.type_name()))
}

/// `value[key]`: first what is in it, then its attribute.
pub(super) fn item(value: &Datum, key: &Datum, meter: &Meter) -> Result<Datum> {
    let found = match (value, key) {
        (Datum::Undefined(name), _) => return Err(undefined(name)),
        (Datum::Dict(dict), key) => dict.get(key, meter).ok().flatten().cloned(),
        (Datum::Str(text), key) => match key.as_int() {
            Some(index) => {
                meter.bytes(text.len() as u64)?;
                let index = place(index, text.chars().count());
                index
                    .and_then(|index| text.chars().nth(index))
                    .map(|c| Datum::from(c.to_string()))
            }
            None => None,
        },
        (Datum::List(items) | Datum::Tuple(items), key) => {
            let index = key
                .as_int()
                .and_then(|index| place(index, items.values().len()));
            index.map(|index| items.values()[index].clone())
        }
        (Datum::Range(first, _, step), key) => {
            let index = key
                .as_int()
                .and_then(|index| place(index, value.len().unwrap_or(0)));
            index.map(|index| Datum::Int(first + index as i128 * step))
        }
        _ => None,
    };
    match (found, key) {
        (Some(found), _) => Ok(found),
        (None, Datum::Str(name)) => attribute(value, name),
        (None, key) => {
            let mut name = String::new();
            write_repr(&mut name, key, 0, meter)?;
            Ok(lacking(value, &name))
        }
    }
}

/// An index from the front or, below zero, from the back.
fn place(index: i128, len: usize) -> Option<usize> {
    let index = if index < 0 {
        index + len as i128
    } else {
        index
    };
    usize::try_from(index).ok().filter(|index| *index < len)
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Datum, bounds: [Option<Datum>; 3], meter: &Meter) -> Result<Datum> {
    if let Datum::Undefined(name) = value {
        return Err(undefined(name));
    }
    let mut numbers = [None; 3];
    for (number, bound) in numbers.iter_mut().zip(bounds) {
        *number = match bound {
            None | Some(Datum::None) => None,
            Some(bound) => match bound.as_int() {
                Some(index) => Some(index),
                // Jinja2 takes the failure for a value that has no such item.
                None => return Ok(lacking(value, "slice")),
            },
        };
    }
    let places = |len: usize| places(numbers, len);
    match value {
        Datum::Str(text) => {
            meter.bytes(text.len() as u64)?;
            // A char takes four times the bytes of most texts, so a slice in one piece takes none.
            if numbers[2].is_none_or(|step| step == 1) {
                let (first, count, _) = places(text.chars().count())?;
                let at = |count: usize| {
                    text.char_indices()
                        .nth(count)
                        .map_or(text.len(), |(at, _)| at)
                };
                let first = usize::try_from(first).unwrap_or(0);
                return Ok(Datum::from(&text[at(first)..at(first + count)]));
            }
            let chars: Vec<char> = text.chars().collect();
            let (first, count, step) = places(chars.len())?;
            let at = |index: usize| chars[(first + index as i128 * step) as usize];
            Ok(Datum::from((0..count).map(at).collect::<String>()))
        }
        Datum::List(items) | Datum::Tuple(items) => {
            let (first, count, step) = places(items.values().len())?;
            let at = |index: usize| items.values()[(first + index as i128 * step) as usize].clone();
            let values = (0..count).map(at).collect();
            match value {
                Datum::List(_) => Datum::list(values, meter),
                _ => Datum::tuple(values, meter),
            }
        }
        Datum::Range(start, _, every) => {
            let (first, count, step) = places(value.len().unwrap_or(0))?;
            let start = start + first * every;
            Ok(Datum::Range(
                start,
                start + count as i128 * step * every,
                step * every,
            ))
        }
        other => Ok(lacking(other, "slice")),
    }
}

/// The first place of a slice, how many places there are, and the step.
fn places([start, stop, step]: [Option<i128>; 3], len: usize) -> Result<(i128, usize, i128)> {
    let (step, len) = (step.unwrap_or(1), len as i128);
    if step == 0 {
        fail!("the step of a slice is 0");
    }
    let (low, high) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(bound) if bound < 0 => bound.saturating_add(len).max(low),
        Some(bound) => bound.min(high),
    };
    let (first, end) = if step > 0 {
        (bound(start, low), bound(stop, high))
    } else {
        (bound(start, high), bound(stop, low))
    };
    let span = if step > 0 { end - first } else { first - end };
    let stride = step.saturating_abs();
    let count = if span <= 0 {
        0
    } else {
        (span - 1) / stride + 1
    };
    Ok((first, usize::try_from(count).unwrap_or(0), step))
}

/// The error about a value that is not there.
pub(super) fn undefined(name: &str) -> JinjaError {
    JinjaError::new(format!("{name:?} is undefined"))
}
