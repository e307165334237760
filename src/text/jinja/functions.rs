//! Functions that every template has, and the variable `loop`.

use std::rc::Rc;

use super::{
    arguments::Given,
    datum::{Datum, Dict, Items, Loop, a},
    error::{JinjaError, Result, fail},
    meter::Meter,
    strftime::strftime,
    text::str_of,
};

/// The longest range: Jinja2's `MAX_RANGE`.
const RANGE_MAX: i128 = 100_000;

/// Calls a function. A namespace is given as the dictionary that it begins with: the run makes one of it. `now` is the time in
/// seconds since 1970.
pub(super) fn call(name: &str, mut given: Given, meter: &Meter, now: u64) -> Result<Datum> {
    match name {
        "range" => {
            let first = given.need("start")?;
            let second = given.take("stop");
            let step = given.int("step", 1)?;
            given.end()?;
            let number = |value: &Datum| match value.as_int() {
                Some(value) if value.unsigned_abs() < 1 << 64 => Ok(value),
                Some(_) => Err(JinjaError::new("a range goes too far")),
                None => Err(JinjaError::new(format!(
                    "range wants whole numbers, not {}",
                    a(value.type_name())
                ))),
            };
            let (first, end) = match &second {
                None => (0, number(&first)?),
                Some(second) => (number(&first)?, number(second)?),
            };
            if step == 0 || step.unsigned_abs() >= 1 << 64 {
                fail!("the step of a range is 0 or too large");
            }
            let range = Datum::Range(first, end, step);
            let len = range.len().unwrap_or(usize::MAX);
            if len as i128 > RANGE_MAX {
                fail!("a range has {len} numbers, and at most {RANGE_MAX} are allowed");
            }
            Ok(range)
        }
        "dict" | "namespace" => {
            let mut entries = Vec::new();
            if let Some(from) = given.plain.pop_front() {
                match &from {
                    Datum::Dict(dict) => entries.extend(dict.entries().iter().cloned()),
                    pairs => {
                        for pair in pairs.iterate(meter)?.values() {
                            match pair.iterate(meter)?.values() {
                                [key, value] => entries.push((key.clone(), value.clone())),
                                _ => fail!("{name} wants pairs of keys and values"),
                            }
                        }
                    }
                }
            }
            let named = given.named.drain(..);
            entries.extend(named.map(|(name, value)| (Datum::Str(name), value)));
            given.end()?;
            let dict = Dict::new(entries, meter)?;
            Ok(Datum::Dict(dict))
        }
        "raise_exception" => {
            let message = given.need("message")?;
            Err(JinjaError::Raised(str_of(&message, meter)?.to_string()))
        }
        "strftime_now" => {
            let format = given.need("format")?;
            let text = str_of(&format, meter)?;
            meter.bytes(text.len() as u64 * 10)?;
            let unknown =
                |directive| JinjaError::new(format!("strftime_now does not know {directive:?}"));
            Datum::text(strftime(&text, now).map_err(unknown)?, meter)
        }
        other => fail!("{other:?} is undefined"),
    }
}

impl Loop {
    /// `loop.index` and its like.
    pub(super) fn attribute(&self, name: &str) -> Option<Datum> {
        let (index, items) = (self.index.get(), self.items.values());
        let item = |index: Option<usize>, name| {
            let found = index.and_then(|index| items.get(index));
            found
                .cloned()
                .unwrap_or_else(|| Datum::undefined(format!("loop.{name}")))
        };
        Some(match name {
            "index" => Datum::from(index + 1),
            "index0" => Datum::from(index),
            "revindex" => Datum::from(items.len() - index),
            "revindex0" => Datum::from(items.len() - index - 1),
            "first" => Datum::Bool(index == 0),
            "last" => Datum::Bool(index + 1 == items.len()),
            "length" => Datum::from(items.len()),
            "depth" => Datum::from(self.depth + 1),
            "depth0" => Datum::from(self.depth),
            "previtem" => item(index.checked_sub(1), "previtem"),
            "nextitem" => item(index.checked_add(1), "nextitem"),
            _ => return None,
        })
    }

    /// `loop.cycle(…)` and `loop.changed(…)`.
    pub(super) fn method(&self, name: &str, given: Given, meter: &Meter) -> Result<Datum> {
        let values = Items::new(given.plain.into(), meter)?;
        match name {
            "cycle" => match values.values() {
                [] => fail!("loop.cycle has nothing to choose from"),
                values => Ok(values[self.index.get() % values.len()].clone()),
            },
            _ => {
                let last = self.last.borrow_mut().replace(Rc::clone(&values));
                let is_same = match last {
                    Some(last) => Datum::Tuple(last).equals(&Datum::Tuple(values), meter)?,
                    None => false,
                };
                Ok(Datum::Bool(!is_same))
            }
        }
    }
}
