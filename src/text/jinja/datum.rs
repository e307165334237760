//! Values of a template.
//!
//! Lists, tuples and dictionaries never change once they are made, as in the sandbox of transformers. So each knows how
//! large and how deep it is, and none holds itself. Only namespaces change; a namespace holds others by reference, and the
//! run that made it empties it at its end.

use std::{
    cell::{Cell, RefCell},
    cmp::Ordering,
    collections::HashMap,
    rc::Rc,
};

use super::{
    ast::{For, Literal, MacroDef, Name},
    error::{JinjaError, Result, fail},
    meter::{Meter, NESTING_MAX},
};

/// Bytes that a value takes beside its text.
const VALUE_BYTES: u64 = 32;

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Datum {
    /// Nothing, under the name that was looked for.
    Undefined(Name),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    /// Keys, values or items of a dictionary.
    View(&'static str, Rc<Items>),
    /// First, end, step.
    Range(i128, i128, i128),
    /// What filters such as `map` give: it can be gone through once.
    Generator(Rc<Generator>),
    Namespace(Rc<Namespace>),
    Loop(Rc<Loop>),
    Macro(Rc<Macro>),
    /// A method of a value.
    Method(Rc<(Datum, Name)>),
    /// A function that every template has.
    Function(&'static str),
}

/// The values of a list.
#[derive(Debug)]
pub(super) struct Items {
    values: Vec<Datum>,
    size: Size,
}

/// How large a value is.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Of all values in it together.
    bytes: u64,
    depth: usize,
}

/// A dictionary, in the order of its keys.
#[derive(Debug)]
pub(super) struct Dict {
    entries: Vec<(Datum, Datum)>,
    places: HashMap<Key, usize>,
    size: Size,
}

/// What makes two keys the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    /// Also whole floats and booleans, as in Python.
    Int(i128),
    Float(u64),
    Str(Rc<str>),
    Tuple(Vec<Key>),
    /// Other values are the same where they lie at one place.
    Place(usize),
}

/// Values that can be gone through once.
#[derive(Debug)]
pub(super) struct Generator {
    pub(super) items: Rc<Items>,
    pub(super) next: Cell<usize>,
}

/// A place for values that change.
#[derive(Debug, Default)]
pub(super) struct Namespace {
    pub(super) entries: RefCell<Vec<(Name, Datum)>>,
}

/// The variable `loop`.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) items: Rc<Items>,
    pub(super) index: Cell<usize>,
    /// Loops of the same recursion around this one.
    pub(super) depth: usize,
    /// What `changed` was given last.
    pub(super) last: RefCell<Option<Rc<Items>>>,
    /// A recursive loop can be called.
    pub(super) recursion: Option<Rc<For>>,
    /// The scope around the loop.
    pub(super) scope: usize,
}

/// A macro with the scope that it sees.
#[derive(Debug)]
pub(super) struct Macro {
    pub(super) def: Rc<MacroDef>,
    pub(super) scope: usize,
}

impl Items {
    /// Checks how large the list becomes.
    pub(super) fn new(values: Vec<Datum>, meter: &Meter) -> Result<Rc<Self>> {
        let size = Size::of(values.iter(), meter)?;
        Ok(Rc::new(Self { values, size }))
    }

    pub(super) fn values(&self) -> &[Datum] {
        &self.values
    }
}

impl Size {
    fn of<'v>(values: impl Iterator<Item = &'v Datum>, meter: &Meter) -> Result<Self> {
        let mut size = Self {
            bytes: VALUE_BYTES,
            depth: 1,
        };
        let mut count = 1;
        for value in values {
            let inner = value.size();
            size.bytes = size.bytes.saturating_add(inner.bytes);
            size.depth = size.depth.max(inner.depth + 1);
            count += 1;
        }
        if size.depth > NESTING_MAX {
            fail!("lists and dictionaries lie deeper in each other than {NESTING_MAX}");
        }
        meter.size(size.bytes)?;
        meter.bytes(count * VALUE_BYTES)?;
        Ok(size)
    }
}

impl Dict {
    /// Of two entries with one key, the last one's value counts and the first one's place.
    pub(super) fn new(entries: Vec<(Datum, Datum)>, meter: &Meter) -> Result<Rc<Self>> {
        let size = Size::of(entries.iter().flat_map(|(key, value)| [key, value]), meter)?;
        let mut dict = Self {
            entries: Vec::with_capacity(entries.len()),
            places: HashMap::with_capacity(entries.len()),
            size,
        };
        for (key, value) in entries {
            let same = key.key(meter)?;
            match dict.places.get(&same) {
                Some(place) => dict.entries[*place].1 = value,
                None => {
                    dict.places.insert(same, dict.entries.len());
                    dict.entries.push((key, value));
                }
            }
        }
        Ok(Rc::new(dict))
    }

    pub(super) fn entries(&self) -> &[(Datum, Datum)] {
        &self.entries
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &Datum, meter: &Meter) -> Result<Option<&Datum>> {
        let place = self.places.get(&key.key(meter)?);
        Ok(place.map(|place| &self.entries[*place].1))
    }

    /// The value of a key that is text.
    pub(super) fn named(&self, key: &Name) -> Option<&Datum> {
        let place = self.places.get(&Key::Str(Rc::clone(key)))?;
        Some(&self.entries[*place].1)
    }
}

impl From<String> for Datum {
    fn from(text: String) -> Self {
        Self::Str(text.into())
    }
}

impl From<&str> for Datum {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl From<&Literal> for Datum {
    fn from(literal: &Literal) -> Self {
        match literal {
            Literal::None => Self::None,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Float(value) => Self::Float(*value),
            Literal::Str(text) => Self::Str(Rc::clone(text)),
        }
    }
}

impl From<usize> for Datum {
    fn from(count: usize) -> Self {
        Self::Int(count as i128)
    }
}

impl Datum {
    pub(super) fn undefined(name: impl Into<Name>) -> Self {
        Self::Undefined(name.into())
    }

    /// A list of values.
    pub(super) fn list(values: Vec<Self>, meter: &Meter) -> Result<Self> {
        Ok(Self::List(Items::new(values, meter)?))
    }

    pub(super) fn tuple(values: Vec<Self>, meter: &Meter) -> Result<Self> {
        Ok(Self::Tuple(Items::new(values, meter)?))
    }

    pub(super) fn generator(values: Vec<Self>, meter: &Meter) -> Result<Self> {
        let items = Items::new(values, meter)?;
        Ok(Self::Generator(Rc::new(Generator {
            items,
            next: Cell::new(0),
        })))
    }

    /// A text that is paid for.
    pub(super) fn text(text: String, meter: &Meter) -> Result<Self> {
        meter.bytes(text.len() as u64)?;
        Ok(Self::from(text))
    }

    fn size(&self) -> Size {
        let (bytes, depth) = match self {
            Self::Str(text) => (text.len() as u64, 0),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => {
                (items.size.bytes, items.size.depth)
            }
            Self::Generator(generator) => (generator.items.size.bytes, generator.items.size.depth),
            Self::Loop(state) => (state.items.size.bytes, state.items.size.depth + 1),
            Self::Dict(dict) => (dict.size.bytes, dict.size.depth),
            Self::Method(method) => (0, method.0.size().depth + 1),
            _ => (0, 0),
        };
        Size {
            bytes: bytes.saturating_add(VALUE_BYTES),
            depth,
        }
    }

    /// Bytes of the value and of all in it.
    pub(super) fn bytes(&self) -> u64 {
        self.size().bytes
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number, or a boolean as one.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// Any number as a float.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// The type, as Python names it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(name, _) => name,
            Self::Range(..) => "range",
            Self::Generator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Method(_) => "builtin_function_or_method",
            Self::Function(_) => "function",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            other => other.len().is_none_or(|len| len > 0),
        }
    }

    /// As [`Datum::len`], with the letters of a text paid for.
    pub(super) fn len_paid(&self, meter: &Meter) -> Result<Option<usize>> {
        if let Self::Str(text) = self {
            meter.bytes(text.len() as u64)?;
        }
        Ok(self.len())
    }

    /// How many values there are, where Python's `len` knows it.
    pub(super) fn len(&self) -> Option<usize> {
        Some(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => text.chars().count(),
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => items.values.len(),
            Self::Dict(dict) => dict.entries.len(),
            Self::Range(first, end, step) => range_len(*first, *end, *step),
            Self::Loop(state) => state.items.values.len(),
            _ => return None,
        })
    }

    /// The values that a loop goes through.
    pub(super) fn iterate(&self, meter: &Meter) -> Result<Rc<Items>> {
        let values = match self {
            Self::List(items) | Self::Tuple(items) | Self::View(_, items) => {
                return Ok(Rc::clone(items));
            }
            Self::Undefined(_) => Vec::new(),
            Self::Str(text) => {
                meter.bytes(text.len() as u64 * VALUE_BYTES)?;
                text.chars()
                    .map(|c| Self::from(c.encode_utf8(&mut [0; 4]) as &str))
                    .collect()
            }
            Self::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Range(first, end, step) => {
                let len = range_len(*first, *end, *step);
                meter.bytes(len as u64 * VALUE_BYTES)?;
                (0..len as i128)
                    .map(|index| Self::Int(first + index * step))
                    .collect()
            }
            Self::Generator(generator) => {
                let next = generator.next.replace(generator.items.values.len());
                if next == 0 {
                    return Ok(Rc::clone(&generator.items));
                }
                generator.items.values[next..].to_vec()
            }
            other => fail!("{} is no list", a(other.type_name())),
        };
        Items::new(values, meter)
    }

    /// What makes two keys the same. A tuple is gone through whole.
    pub(super) fn key(&self, meter: &Meter) -> Result<Key> {
        meter.steps(1)?;
        Ok(match self {
            Self::None => Key::None,
            Self::Bool(_) | Self::Int(_) => Key::Int(self.as_int().unwrap_or_default()),
            Self::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => {
                Key::Int(*value as i128)
            }
            Self::Float(value) => Key::Float(value.to_bits()),
            Self::Str(text) => Key::Str(Rc::clone(text)),
            Self::Tuple(items) => Key::Tuple(
                items
                    .values
                    .iter()
                    .map(|item| item.key(meter))
                    .collect::<Result<_>>()?,
            ),
            Self::Namespace(place) => Key::Place(Rc::as_ptr(place) as usize),
            Self::Macro(place) => Key::Place(Rc::as_ptr(place) as usize),
            Self::Undefined(_) => Key::Place(0),
            other => fail!("{} cannot be a key", a(other.type_name())),
        })
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Self, meter: &Meter) -> Result<bool> {
        meter.steps(1)?;
        let all = |one: &Items, other: &Items| -> Result<bool> {
            if one.values.len() != other.values.len() {
                return Ok(false);
            }
            for (one, other) in one.values.iter().zip(&other.values) {
                if !one.equals(other, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(one), Self::Str(other)) => {
                meter.bytes(one.len().min(other.len()) as u64)?;
                one == other
            }
            (Self::List(one), Self::List(other)) | (Self::Tuple(one), Self::Tuple(other)) => {
                all(one, other)?
            }
            (Self::View(name, one), Self::View(kind, other)) if name == kind => all(one, other)?,
            (Self::Dict(one), Self::Dict(other)) => {
                if one.entries.len() != other.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &one.entries {
                    match other.get(key, meter)? {
                        Some(found) if value.equals(found, meter)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Range(..), Self::Range(..)) => {
                let (one, other) = (self.iterate(meter)?, other.iterate(meter)?);
                all(&one, &other)?
            }
            (Self::Namespace(one), Self::Namespace(other)) => Rc::ptr_eq(one, other),
            (Self::Loop(one), Self::Loop(other)) => Rc::ptr_eq(one, other),
            (Self::Macro(one), Self::Macro(other)) => Rc::ptr_eq(one, other),
            (Self::Function(one), Self::Function(other)) => one == other,
            _ => numbers(self, other) == Some(Some(Ordering::Equal)),
        })
    }

    /// Python's `<` and its like; `None` where a NaN makes all of them false.
    pub(super) fn compare(&self, other: &Self, meter: &Meter) -> Result<Option<Ordering>> {
        meter.steps(1)?;
        match (self, other) {
            (Self::Str(one), Self::Str(other)) => {
                meter.bytes(one.len().min(other.len()) as u64)?;
                Ok(Some(one.cmp(other)))
            }
            (Self::List(one), Self::List(other)) | (Self::Tuple(one), Self::Tuple(other)) => {
                for (one, other) in one.values.iter().zip(&other.values) {
                    if !one.equals(other, meter)? {
                        return one.compare(other, meter);
                    }
                }
                Ok(Some(one.values.len().cmp(&other.values.len())))
            }
            _ => numbers(self, other).ok_or_else(|| {
                let (one, other) = (a(self.type_name()), a(other.type_name()));
                JinjaError::new(format!("{one} and {other} have no order"))
            }),
        }
    }
}

/// The order of two numbers; `None` where one is none.
fn numbers(one: &Datum, other: &Datum) -> Option<Option<Ordering>> {
    match (one.as_int(), other.as_int()) {
        (Some(one), Some(other)) => Some(Some(one.cmp(&other))),
        _ => Some(one.as_float()?.partial_cmp(&other.as_float()?)),
    }
}

/// How many numbers a range has.
fn range_len(first: i128, end: i128, step: i128) -> usize {
    let span = if step > 0 { end - first } else { first - end };
    let step = step.unsigned_abs() as i128;
    usize::try_from((span + step - 1) / step).unwrap_or(0)
}

/// A type in words.
pub(super) fn a(type_name: &str) -> String {
    match type_name {
        "NoneType" => "None".to_owned(),
        "Undefined" => "an undefined value".to_owned(),
        name if name.starts_with(['a', 'i', 'o', 'u']) => format!("an {name}"),
        name => format!("a {name}"),
    }
}
