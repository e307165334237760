//! The machine that carries out a pickle.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    PICKLE_BYTES_MAX, PickleError,
    call::PickleCall,
    cursor::{PickleCursor, PickleStop},
    globals::Global,
    object::{ObjectId, Pickle, PickleObject, PickleParsed, Storage},
    opcodes::name,
};

/// More objects than any file makes.
const OBJECTS_MAX: usize = 1 << 22;

/// The highest protocol of Python.
const PROTOCOL_MAX: u8 = 5;

/// The longest whole number that is a number here, in bytes; the number that old files begin with has ten.
const WHOLE_BYTES_MAX: usize = 16;

/// A machine with the objects that it has made.
struct Machine<'a> {
    file: &'a str,
    offset: u64,
    cursor: PickleCursor<'a>,
    /// The byte of the instruction.
    at: usize,
    opcode: &'static str,
    objects: Vec<PickleObject>,
    stack: Vec<ObjectId>,
    /// Lengths of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u64, ObjectId>,
    storages: Vec<Storage>,
    storage_of: HashMap<Arc<str>, usize>,
}

/// Carries out the pickle that `bytes` begins with.
pub(super) fn run(file: &str, bytes: &[u8], offset: u64) -> Result<PickleParsed, PickleError> {
    let mut machine = Machine {
        file,
        offset,
        cursor: PickleCursor { bytes, at: 0 },
        at: 0,
        opcode: "",
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: Vec::new(),
        storage_of: HashMap::new(),
    };
    loop {
        match machine.step() {
            Ok(None) => {}
            Ok(Some(root)) => {
                return Ok(PickleParsed::Whole(Pickle {
                    objects: machine.objects,
                    root,
                    storages: machine.storages,
                    bytes: machine.cursor.at,
                }));
            }
            Err(PickleStop::Wrong(error)) => return Err(*error),
            Err(PickleStop::Short) if (bytes.len() as u64) < PICKLE_BYTES_MAX => {
                return Ok(PickleParsed::More);
            }
            Err(PickleStop::Short) => {
                return Err(PickleError::TooLarge {
                    file: file.to_owned(),
                    bytes: bytes.len() as u64,
                });
            }
        }
    }
}

impl Machine<'_> {
    /// Carries out an instruction; the last one gives the result.
    fn step(&mut self) -> Result<Option<ObjectId>, PickleStop> {
        self.at = self.cursor.at;
        let code = self.cursor.byte()?;
        self.opcode = name(code).unwrap_or_default();
        match code {
            b'(' => self.marks.push(self.stack.len()),
            b'.' => {
                let root = self.pop()?;
                if !self.stack.is_empty() || !self.marks.is_empty() {
                    let left = self.stack.len() + self.marks.len();
                    return Err(self
                        .operand("an empty stack", format!("{left} entries"))
                        .into());
                }
                return Ok(Some(root));
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'N' => self.push(PickleObject::None)?,
            0x88 | 0x89 => self.push(PickleObject::Other("a bool"))?,
            b'J' => {
                let number = self.cursor.array().map(i32::from_le_bytes)?;
                self.push(PickleObject::Whole(number.into()))?;
            }
            b'K' => {
                let number = self.cursor.byte()?;
                self.push(PickleObject::Whole(number.into()))?;
            }
            b'M' => {
                let number = self.cursor.u16()?;
                self.push(PickleObject::Whole(number.into()))?;
            }
            0x8a => {
                let len = self.cursor.byte()?;
                self.whole(len.into())?;
            }
            0x8b => {
                let len = self.cursor.u32()?;
                self.whole(len.into())?;
            }
            b'G' => {
                self.cursor.take(8)?;
                self.push(PickleObject::Other("a float"))?;
            }
            b'U' | 0x8c => {
                let len = self.cursor.byte()?;
                self.text(len.into())?;
            }
            b'T' | b'X' => {
                let len = self.cursor.u32()?;
                self.text(len.into())?;
            }
            0x8d => {
                let len = self.cursor.u64()?;
                self.text(len)?;
            }
            b'C' => {
                let len = self.cursor.byte()?;
                self.bytes(len.into())?;
            }
            b'B' => {
                let len = self.cursor.u32()?;
                self.bytes(len.into())?;
            }
            0x8e | 0x96 => {
                let len = self.cursor.u64()?;
                self.bytes(len)?;
            }
            b']' => self.push(PickleObject::List(Vec::new()))?,
            b'}' => self.push(PickleObject::Dict(Vec::new()))?,
            b')' => self.push(PickleObject::Tuple(Vec::new()))?,
            0x8f => self.push(PickleObject::Other("a set"))?,
            0x85..=0x87 => {
                let from = self.below(usize::from(code - 0x84))?;
                let items = self.stack.split_off(from);
                self.push(PickleObject::Tuple(items))?;
            }
            b't' | b'l' | b'd' | 0x91 => {
                let items = self.since_mark()?;
                let made = match code {
                    b't' => PickleObject::Tuple(items),
                    b'l' => PickleObject::List(items),
                    b'd' => PickleObject::Dict(self.pairs(&items)?),
                    _ => PickleObject::Other("a set"),
                };
                self.push(made)?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(&items)?;
            }
            0x90 => {
                self.since_mark()?;
                match self.top()? {
                    PickleObject::Other("a set") => {}
                    other => {
                        let found = other.kind();
                        return Err(self.operand("a set", found).into());
                    }
                }
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            b'q' => {
                let index = self.cursor.byte()?;
                self.memoize(index.into())?;
            }
            b'r' => {
                let index = self.cursor.u32()?;
                self.memoize(index.into())?;
            }
            0x94 => self.memoize(self.memo.len() as u64)?,
            b'h' => {
                let index = self.cursor.byte()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = self.cursor.u32()?;
                self.recall(index.into())?;
            }
            b'c' => {
                let [module, name] = [self.cursor.line()?, self.cursor.line()?];
                let [module, name] = [module, name].map(String::from_utf8_lossy);
                self.global(&module, &name)?;
            }
            0x93 => {
                let [name, module] = [self.pop()?, self.pop()?];
                let texts = [module, name].map(|id| match &self.objects[id.0] {
                    PickleObject::Text(text) => Ok(Arc::clone(text)),
                    other => Err(self.operand("a module and a name", other.kind())),
                });
                let [module, name] = texts;
                self.global(&module?, &name?)?;
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.call().storage(id)?;
                let nth = self.storage(storage)?;
                self.push(PickleObject::Storage(nth))?;
            }
            b'R' => {
                let [arguments, callable] = [self.pop()?, self.pop()?];
                let made = match (&self.objects[callable.0], &self.objects[arguments.0]) {
                    (PickleObject::Global(callable), PickleObject::Tuple(arguments)) => {
                        self.call().result(*callable, arguments)?
                    }
                    (PickleObject::Global(_), other) | (other, _) => {
                        return Err(self
                            .operand("a known function and a tuple", other.kind())
                            .into());
                    }
                };
                self.push(made)?;
            }
            // The attributes of a dictionary: its `_metadata`, which says the versions of modules.
            b'b' => {
                self.pop()?;
                if !matches!(self.top()?, PickleObject::Dict(_)) {
                    let found = self.top()?.kind();
                    return Err(self.operand("an OrderedDict", found).into());
                }
            }
            0x80 => match self.cursor.byte()? {
                protocol if protocol <= PROTOCOL_MAX => {}
                protocol => {
                    let found = format!("protocol {protocol}");
                    return Err(self.operand("a protocol up to 5", found).into());
                }
            },
            0x95 => drop(self.cursor.take(8)?),
            _ => {
                return Err(PickleError::Opcode {
                    file: self.file.to_owned(),
                    opcode: name(code).map_or_else(|| format!("{code:#04x}"), str::to_owned),
                    at: self.place(),
                }
                .into());
            }
        }
        Ok(None)
    }

    /// The byte of the instruction in the file.
    fn place(&self) -> u64 {
        self.offset + self.at as u64
    }

    fn operand(&self, expected: &'static str, found: impl Into<String>) -> PickleError {
        PickleError::Operand {
            file: self.file.to_owned(),
            opcode: self.opcode,
            expected,
            found: found.into(),
            at: self.place(),
        }
    }

    fn call(&self) -> PickleCall<'_> {
        PickleCall {
            file: self.file,
            at: self.place(),
            objects: &self.objects,
            storages: &self.storages,
        }
    }

    fn push(&mut self, object: PickleObject) -> Result<(), PickleStop> {
        if self.objects.len() == OBJECTS_MAX {
            return Err(PickleError::TooMany {
                file: self.file.to_owned(),
                what: "objects",
                max: OBJECTS_MAX as u64,
                at: self.place(),
            }
            .into());
        }
        self.stack.push(ObjectId(self.objects.len()));
        self.objects.push(object);
        Ok(())
    }

    /// Where the last `count` entries of the stack begin, which have to be above the last mark.
    fn below(&self, count: usize) -> Result<usize, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let there = self.stack.len() - floor;
        match there.checked_sub(count) {
            Some(left) => Ok(floor + left),
            None => Err(self.operand("more entries of the stack", format!("{there}"))),
        }
    }

    fn pop(&mut self) -> Result<ObjectId, PickleError> {
        let at = self.below(1)?;
        Ok(self.stack.remove(at))
    }

    fn top(&mut self) -> Result<&mut PickleObject, PickleError> {
        let at = self.below(1)?;
        Ok(&mut self.objects[self.stack[at].0])
    }

    fn since_mark(&mut self) -> Result<Vec<ObjectId>, PickleError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.operand("a mark", "none")),
        }
    }

    fn pairs(&self, items: &[ObjectId]) -> Result<Vec<(ObjectId, ObjectId)>, PickleError> {
        let (pairs, []) = items.as_chunks() else {
            let found = format!("{} entries", items.len());
            return Err(self.operand("keys and values in pairs", found));
        };
        Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
    }

    fn append(&mut self, items: &[ObjectId]) -> Result<(), PickleError> {
        match self.top()? {
            PickleObject::List(list) => list.extend(items),
            other => {
                let found = other.kind();
                return Err(self.operand("a list", found));
            }
        }
        Ok(())
    }

    fn set(&mut self, items: &[ObjectId]) -> Result<(), PickleError> {
        let pairs = self.pairs(items)?;
        match self.top()? {
            PickleObject::Dict(dict) => dict.extend(pairs),
            other => {
                let found = other.kind();
                return Err(self.operand("a dictionary", found));
            }
        }
        Ok(())
    }

    fn memoize(&mut self, index: u64) -> Result<(), PickleError> {
        let at = self.below(1)?;
        self.memo.insert(index, self.stack[at]);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<(), PickleError> {
        match self.memo.get(&index) {
            Some(id) => self.stack.push(*id),
            None => return Err(self.operand("an entry of the memo", format!("no entry {index}"))),
        }
        Ok(())
    }

    fn whole(&mut self, len: u64) -> Result<(), PickleStop> {
        let bytes = self.cursor.take(len)?;
        if bytes.len() > WHOLE_BYTES_MAX {
            return self.push(PickleObject::Other("a long int"));
        }
        let negative = bytes.last().is_some_and(|last| *last >= 0x80);
        let mut whole = [if negative { 0xff } else { 0 }; WHOLE_BYTES_MAX];
        whole[..bytes.len()].copy_from_slice(bytes);
        self.push(PickleObject::Whole(i128::from_le_bytes(whole)))
    }

    fn text(&mut self, len: u64) -> Result<(), PickleStop> {
        let bytes = self.cursor.take(len)?;
        match core::str::from_utf8(bytes) {
            Ok(text) => self.push(PickleObject::Text(text.into())),
            Err(_) => Err(PickleError::NotUtf8 {
                file: self.file.to_owned(),
                at: self.place(),
            }
            .into()),
        }
    }

    fn bytes(&mut self, len: u64) -> Result<(), PickleStop> {
        self.cursor.take(len)?;
        self.push(PickleObject::Other("bytes"))
    }

    /// A name is known, or the pickle is refused: whether it would be called makes no difference.
    fn global(&mut self, module: &str, name: &str) -> Result<(), PickleStop> {
        match Global::find(module, name) {
            Some(global) => self.push(PickleObject::Global(global)),
            None => Err(PickleError::Global {
                file: self.file.to_owned(),
                global: format!("{module}.{name}"),
                at: self.place(),
            }
            .into()),
        }
    }

    /// The number of a storage. One that is named again has to be the same.
    fn storage(&mut self, storage: Storage) -> Result<usize, PickleError> {
        let next = self.storages.len();
        let nth = match self.storage_of.entry(Arc::clone(&storage.key)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                self.storages.push(storage.clone());
                *new.insert(next)
            }
        };
        if self.storages[nth] == storage {
            return Ok(nth);
        }
        Err(PickleError::Storage {
            file: self.file.to_owned(),
            reason: format!("the key {:?} of another one", storage.key),
            at: self.place(),
        })
    }
}
