//! Operators, as Python has them.

use std::cmp::Ordering;

use super::{
    access::undefined,
    ast::{Arithmetic, Relation},
    datum::{Datum, a},
    error::{JinjaError, Result, fail},
    meter::Meter,
    printf::printf,
};

/// Whether a comparison holds.
pub(super) fn compare(
    operator: Relation,
    left: &Datum,
    right: &Datum,
    meter: &Meter,
) -> Result<bool> {
    Ok(match operator {
        Relation::Equal => left.equals(right, meter)?,
        Relation::Unequal => !left.equals(right, meter)?,
        Relation::In => contains(right, left, meter)?,
        Relation::NotIn => !contains(right, left, meter)?,
        Relation::Less => left.compare(right, meter)? == Some(Ordering::Less),
        Relation::LessEqual => left.compare(right, meter)?.is_some_and(Ordering::is_le),
        Relation::Greater => left.compare(right, meter)? == Some(Ordering::Greater),
        Relation::GreaterEqual => left.compare(right, meter)?.is_some_and(Ordering::is_ge),
    })
}

/// `value in list`.
pub(super) fn contains(list: &Datum, value: &Datum, meter: &Meter) -> Result<bool> {
    match (list, value) {
        (Datum::Str(text), Datum::Str(part)) => {
            meter.bytes(text.len() as u64)?;
            Ok(text.contains(&**part))
        }
        (Datum::Str(_), other) => fail!("a str holds no {}", other.type_name()),
        (Datum::Dict(dict), value) => Ok(dict.get(value, meter)?.is_some()),
        (list, value) => {
            for item in list.iterate(meter)?.values() {
                if item.equals(value, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

/// `left operator right`.
pub(super) fn arithmetic(
    operator: Arithmetic,
    left: &Datum,
    right: &Datum,
    meter: &Meter,
) -> Result<Datum> {
    for value in [left, right] {
        if let Datum::Undefined(name) = value {
            return Err(undefined(name));
        }
    }
    let made = match (operator, left, right) {
        (Arithmetic::Add, Datum::Str(left), Datum::Str(right)) => {
            meter.bytes((left.len() + right.len()) as u64)?;
            return Ok(Datum::from([&**left, &**right].concat()));
        }
        (Arithmetic::Add, Datum::List(left), Datum::List(right)) => {
            return Datum::list([left.values(), right.values()].concat(), meter);
        }
        (Arithmetic::Add, Datum::Tuple(left), Datum::Tuple(right)) => {
            return Datum::tuple([left.values(), right.values()].concat(), meter);
        }
        (Arithmetic::Multiply, Datum::Str(_) | Datum::List(_) | Datum::Tuple(_), count)
        | (Arithmetic::Multiply, count, Datum::Str(_) | Datum::List(_) | Datum::Tuple(_))
            if count.as_int().is_some() =>
        {
            let list = if right.as_int().is_some() {
                left
            } else {
                right
            };
            return repeated(list, count.as_int().unwrap_or(0), meter);
        }
        (Arithmetic::Remainder, Datum::Str(format), right) => return printf(format, right, meter),
        _ => match (left.as_int(), right.as_int()) {
            (Some(left), Some(right)) => whole(operator, left, right)?,
            _ => match (left.as_float(), right.as_float()) {
                (Some(left), Some(right)) => Some(Datum::Float(floats(operator, left, right)?)),
                _ => None,
            },
        },
    };
    made.ok_or_else(|| {
        let (left, right) = (a(left.type_name()), a(right.type_name()));
        JinjaError::new(format!(
            "{left} and {right} cannot be put together with {}",
            sign(operator)
        ))
    })
}

fn sign(operator: Arithmetic) -> &'static str {
    match operator {
        Arithmetic::Add => "+",
        Arithmetic::Subtract => "-",
        Arithmetic::Multiply => "*",
        Arithmetic::Divide => "/",
        Arithmetic::FloorDivide => "//",
        Arithmetic::Remainder => "%",
        Arithmetic::Power => "**",
    }
}

fn repeated(list: &Datum, count: i128, meter: &Meter) -> Result<Datum> {
    let count = u64::try_from(count.max(0)).unwrap_or(u64::MAX);
    meter.bytes(list.bytes().saturating_sub(32).saturating_mul(count))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    match list {
        Datum::Str(text) => Ok(Datum::from(if text.is_empty() {
            String::new()
        } else {
            text.repeat(count)
        })),
        Datum::List(items) => Datum::list(repeat(items.values(), count), meter),
        Datum::Tuple(items) => Datum::tuple(repeat(items.values(), count), meter),
        other => fail!("{} cannot be repeated", a(other.type_name())),
    }
}

fn repeat(values: &[Datum], count: usize) -> Vec<Datum> {
    if values.is_empty() {
        return Vec::new();
    }
    values
        .iter()
        .cycle()
        .take(values.len() * count)
        .cloned()
        .collect()
}

/// Whole numbers; `None` where the result is none that this type holds.
fn whole(operator: Arithmetic, left: i128, right: i128) -> Result<Option<Datum>> {
    let divides = matches!(
        operator,
        Arithmetic::Divide | Arithmetic::FloorDivide | Arithmetic::Remainder
    );
    if divides && right == 0 {
        fail!("a division by zero");
    }
    let made = match operator {
        Arithmetic::Add => left.checked_add(right),
        Arithmetic::Subtract => left.checked_sub(right),
        Arithmetic::Multiply => left.checked_mul(right),
        Arithmetic::Divide => return Ok(Some(Datum::Float(left as f64 / right as f64))),
        Arithmetic::FloorDivide => left
            .checked_div_euclid(right)
            .map(|_| left.div_euclid(right))
            .map(|quotient| {
                let negative = right < 0 && left.rem_euclid(right) != 0;
                if negative { quotient - 1 } else { quotient }
            }),
        Arithmetic::Remainder => left.checked_rem_euclid(right).map(|rest| {
            if right < 0 && rest != 0 {
                rest + right
            } else {
                rest
            }
        }),
        Arithmetic::Power if right < 0 => {
            return Ok(Some(Datum::Float(floats(
                operator,
                left as f64,
                right as f64,
            )?)));
        }
        Arithmetic::Power => match left {
            0 | 1 => Some(if right == 0 { 1 } else { left }),
            _ => u32::try_from(right)
                .ok()
                .and_then(|right| left.checked_pow(right)),
        },
    };
    match made {
        Some(made) => Ok(Some(Datum::Int(made))),
        None => fail!("a whole number is too large for this program"),
    }
}

fn floats(operator: Arithmetic, left: f64, right: f64) -> Result<f64> {
    let divides = matches!(
        operator,
        Arithmetic::Divide | Arithmetic::FloorDivide | Arithmetic::Remainder
    );
    if right == 0.0 && divides || operator == Arithmetic::Power && left == 0.0 && right < 0.0 {
        fail!("a division by zero");
    }
    let remainder = || {
        let rest = left % right;
        if rest != 0.0 && (rest < 0.0) != (right < 0.0) {
            rest + right
        } else {
            rest
        }
    };
    Ok(match operator {
        Arithmetic::Add => left + right,
        Arithmetic::Subtract => left - right,
        Arithmetic::Multiply => left * right,
        Arithmetic::Divide => left / right,
        Arithmetic::FloorDivide => ((left - remainder()) / right).round(),
        Arithmetic::Remainder => remainder(),
        Arithmetic::Power => left.powf(right),
    })
}

/// `-value` and `+value`.
pub(super) fn signed(value: &Datum, negative: bool) -> Result<Datum> {
    match value {
        Datum::Undefined(name) => Err(undefined(name)),
        Datum::Float(value) => Ok(Datum::Float(if negative { -value } else { *value })),
        other => match other.as_int() {
            Some(value) if negative => match value.checked_neg() {
                Some(value) => Ok(Datum::Int(value)),
                None => fail!("a whole number is too large for this program"),
            },
            Some(value) => Ok(Datum::Int(value)),
            None => fail!("{} has no sign", a(other.type_name())),
        },
    }
}
