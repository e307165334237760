//! Finished weights becoming the files of a folder.

use std::{borrow::Cow, collections::BTreeMap, io};

use firebox_kernels::{arith::float::DType, format::Packed};
use serde_json::{Value, json};

use super::{
    SaveError, SavedFolder, copied,
    file_sum::FileSum,
    identity::Identity,
    journal::{Done, Journal},
    layout::FolderLayout,
    output::{Busy, Output},
    put::{put, put_all, shard_tensor},
    record::{RECORD, Record},
    shard::ShardFile,
    written::{ShardPlace, Written},
};
use crate::{
    config::{SaveConfig, To},
    container::MODEL,
    dialect::dtype,
    pipeline::{Finished, RowBatch, RowSink, Sink, SinkError},
    plan::{Plan, Step},
    source::{
        Checkpoint, CheckpointError, StoredType,
        checkpoint::{CONFIG, INDEX},
        is_made_up, json,
    },
};

/// Writes finished weights to files, and a line for each to the journal.
pub(crate) struct FolderSink<'a> {
    layout: FolderLayout<'a>,
    output: &'a dyn Output,
    journal: Journal,
    current: Option<ShardFile>,
    /// Weights in the current shard, and shards before it.
    at: (usize, usize),
    /// Weights that were in files when the save began.
    resumed: usize,
}

impl<'a> FolderSink<'a> {
    /// Goes on after the last weight of the journal that is on the disk, with all weights before it.
    pub(crate) fn open(
        layout: FolderLayout<'a>,
        output: &'a dyn Output,
        plan: &Plan,
        mut journal: Journal,
    ) -> Result<Self, SaveError> {
        let (mut at, mut current, mut resumed) = ((0, 0), None, 0);
        let mut steps = plan.steps.iter();
        for (nth, name) in layout.names().into_iter().enumerate() {
            let (count, place) = (layout.weights(nth), layout.place(nth));
            let told = journal
                .done()
                .iter()
                .skip(resumed)
                .zip(steps.by_ref().take(count));
            let told = told.take_while(|(done, step)| {
                (&*done.weight, &*done.file) == (&*step.slot.name, &*name)
            });
            let tensors: Vec<Vec<Written>> = told.map(|(done, _)| done.tensors.clone()).collect();
            at = (0, nth);
            if tensors.is_empty() {
                break;
            }
            let (path, head) = (output.partial(&place.name), place.base());
            let (sound, shard) =
                restore(output, place, &tensors, count).map_err(SaveError::at(&path, head))?;
            resumed += sound;
            if sound < count {
                (at, current) = ((sound, nth), shard);
                break;
            }
            at = (0, nth + 1);
        }
        let lost = journal.done().len() - resumed;
        if lost > 0 {
            tracing::warn!(
                lost,
                "weights of the journal are not on the disk as it describes them; they are made again"
            );
        }
        journal.keep(resumed)?;
        if resumed < plan.steps.len() {
            // A folder with less than all weights is no model.
            let removed = output.remove(CONFIG);
            removed.map_err(SaveError::at(&output.path(CONFIG), 0))?;
        }
        Ok(Self {
            layout,
            output,
            journal,
            current,
            at,
            resumed,
        })
    }

    /// Weights that were in files when the save began.
    pub(crate) fn resumed(&self) -> usize {
        self.resumed
    }

    /// Weights that are in files, and would not be made again.
    pub(crate) fn done(&self) -> usize {
        let (unfinished, _) = self.at;
        match self.output.keeps_unfinished() {
            true => self.journal.done().len(),
            false => self.journal.done().len() - unfinished,
        }
    }

    /// Forgets every weight: the next save makes all of them.
    pub(crate) fn forget(&mut self) -> Result<(), SaveError> {
        self.journal.keep(0)?;
        self.journal.sync()
    }

    /// The shard under way.
    fn shard(&mut self, wanted: u64) -> Result<ShardFile, SaveError> {
        match self.current.take() {
            Some(shard) => Ok(shard),
            None => {
                let place = self.layout.place(self.at.1);
                let path = self.output.partial(&place.name);
                ShardFile::create(self.output, place).map_err(SaveError::at(&path, wanted))
            }
        }
    }

    /// Writes the next rows of a weight.
    fn write_rows(&mut self, step: &Step, rows: RowBatch) -> Result<(), SaveError> {
        let wanted = step.bytes_finished();
        let mut shard = self.shard(wanted)?;
        let written = self.put_rows(step, rows, &mut shard);
        let path = self.output.partial(&self.layout.name(self.at.1));
        written.map_err(SaveError::at(&path, wanted))?;
        self.current = Some(shard);
        Ok(())
    }

    /// Writes a weight, or the rest of it, with `put`, and reports it in the journal.
    fn write(
        &mut self,
        step: &Step,
        put: impl FnOnce(&mut ShardFile) -> io::Result<Vec<Written>>,
    ) -> Result<(), SaveError> {
        let (done, nth) = self.at;
        let place = self.layout.place(nth);
        let (path, head) = (self.output.partial(&place.name), place.base());
        let failed = |wanted| SaveError::at(&path, wanted);
        let wanted = step.bytes_finished();
        let mut shard = self.shard(wanted)?;
        let tensors = put(&mut shard).map_err(failed(wanted))?;
        shard.flush().map_err(failed(wanted))?;
        self.journal.tell(Done {
            weight: step.slot.name.clone(),
            file: self.layout.name(nth),
            tensors,
        })?;
        if done + 1 < self.layout.weights(nth) {
            self.current = Some(shard);
            self.at = (done + 1, nth);
        } else {
            // The journal's lines survive a loss of power as the complete file does.
            self.journal.sync()?;
            shard.finish().map_err(failed(head))?;
            self.at = (0, nth + 1);
        }
        Ok(())
    }

    /// Writes some rows of a weight.
    fn put_rows(&self, step: &Step, rows: RowBatch, shard: &mut ShardFile) -> io::Result<()> {
        let slot = &step.slot;
        let begin = |shard: &mut ShardFile, name: &str, dtype, shape: &[usize]| {
            if !shard.is_open() {
                shard.begin(shard_tensor(self.layout.out(step), name, dtype, shape));
            }
        };
        match rows {
            RowBatch::Dense(values) => {
                begin(shard, &slot.name, dtype(values.dtype()), &slot.shape);
                shard.append(&stored_bytes(values.dtype(), values.bytes()))
            }
            RowBatch::Carried(bytes) => {
                begin(shard, &slot.name, carried_type(step), &slot.shape);
                shard.append(&bytes)
            }
            RowBatch::Words { rows, words } => {
                let codes = self.layout.codes(step);
                let codes = codes.expect("rows are asked for where codes can be written by rows");
                begin(shard, &codes.name, codes.dtype, &codes.shape);
                shard.append(&codes.bytes(rows, &words))
            }
        }
    }

    /// Writes everything else, the configuration last: without it a folder is no model.
    pub(crate) fn finish(self, checkpoint: &Checkpoint) -> Result<SavedFolder, SaveError> {
        let Self {
            layout,
            output,
            journal,
            ..
        } = self;
        let names = layout.names();
        let published = output.publish(&names);
        published.map_err(SaveError::at(&layout.to.folder, 0))?;
        let tensors = || {
            let done = journal.done().iter();
            done.flat_map(|done| done.tensors.iter().map(|tensor| (tensor, &done.file)))
        };
        let bytes = tensors().map(|(tensor, _)| tensor.bytes()).sum();
        // All that the journal has no line of: headers, and whole small files.
        let mut others: BTreeMap<String, FileSum> = BTreeMap::new();
        for (nth, name) in names.iter().enumerate() {
            let of_file = tensors().filter(|(_, file)| *file == name);
            let of_file: Vec<Written> = of_file.map(|(tensor, _)| tensor.clone()).collect();
            let place = layout.place(nth);
            let sum = FileSum::new(&place.head(&of_file), place.data_len(&of_file));
            others.insert(name.clone(), sum);
        }
        let weights = others.clone();
        let mut write = |name: &str, bytes: &[u8]| {
            others.insert(name.to_owned(), FileSum::new(bytes, 0));
            let written = output.write(name, bytes);
            written.map_err(SaveError::at(&output.path(name), bytes.len() as u64))
        };
        if layout.is_gguf() {
            // The file has the configuration and the tokenizer.
            let record = Record::new(
                &**checkpoint.source(),
                &journal,
                layout.dialect,
                bytes,
                weights,
            );
            write(RECORD, &pretty(&json!(record)))?;
            journal.remove()?;
            return Ok(SavedFolder {
                folder: layout.to.folder.clone(),
                dialect: layout.dialect.map(To::name),
                files: names,
                bytes,
                resumed: self.resumed,
            });
        }
        if names.len() > 1 {
            let weight_map: BTreeMap<&str, &String> = tensors()
                .map(|(tensor, file)| (&*tensor.name, file))
                .collect();
            let index = json!({
                "metadata": { "total_size": bytes },
                "weight_map": weight_map,
            });
            write(INDEX, &pretty(&index))?;
        }
        let unread = |error: CheckpointError| io::Error::other(error.to_string());
        let files = copied(checkpoint).map_err(unread);
        for file in files.map_err(SaveError::at(&layout.to.folder, 0))? {
            let read = checkpoint.read_optional(&file).map_err(unread);
            if let Some(bytes) = read.map_err(SaveError::at(&output.path(&file), 0))? {
                write(&file, &bytes)?;
            }
        }
        let catalog = checkpoint.catalog();
        let is_source = |tensor: &Written| {
            let source = catalog.get(&tensor.name);
            source.is_some_and(|source| tensor.is_like(source) && !is_made_up(&source.file))
        };
        let are_all = tensors().count() == catalog.len();
        let is_copy = are_all && tensors().all(|(tensor, _)| is_source(tensor));
        let config = pretty(&layout.config(checkpoint.config(), is_copy));
        if layout.to.cache {
            write(CONFIG, &config)?;
            journal.close(others)?;
        } else {
            let record = Record::new(
                &**checkpoint.source(),
                &journal,
                layout.dialect,
                bytes,
                weights,
            );
            write(RECORD, &pretty(&json!(record)))?;
            write(CONFIG, &config)?;
            journal.remove()?;
        }
        Ok(SavedFolder {
            folder: layout.to.folder.clone(),
            dialect: layout.dialect.map(To::name),
            files: names,
            bytes,
            resumed: self.resumed,
        })
    }
}

/// Looks at a file of `count` weights: how many weights of the journal are on the disk, and the file if it is not complete.
fn restore(
    output: &dyn Output,
    place: ShardPlace,
    told: &[Vec<Written>],
    count: usize,
) -> io::Result<(usize, Option<ShardFile>)> {
    if told.len() == count && output.is_finished(&place, &told.concat())? {
        return Ok((count, None));
    }
    match ShardFile::reopen(output, place, told)? {
        (Some(shard), sound) if sound == count => {
            shard.finish()?;
            Ok((count, None))
        }
        (shard, sound) => Ok((sound, shard)),
    }
}

impl Sink for FolderSink<'_> {
    fn place(&mut self, step: &Step, weight: Finished) -> Result<(), SinkError> {
        let slot = &step.slot;
        let out = self.layout.out(step).cloned();
        let out = out.as_ref();
        let written = match weight {
            Finished::Dense(weight) => self.write(step, |shard| {
                let bytes = stored_bytes(weight.dtype(), weight.bytes());
                let dtype = dtype(weight.dtype());
                put(shard, out, &slot.name, dtype, &slot.shape, &bytes)
            }),
            Finished::Carried(bytes) => self.write(step, |shard| {
                let dtype = carried_type(step);
                put(shard, out, &slot.name, dtype, &slot.shape, &bytes)
            }),
            Finished::Share(_) => {
                let reason = "a folder takes whole weights, not a share of one of several ranks";
                return Err(SinkError::new(&*slot.name, reason));
            }
            Finished::Packed(packed) => {
                let tensors = self.layout.tensors(step, packed)?;
                self.write(step, |shard| put_all(shard, out, &tensors))
            }
            Finished::Placed(parts) => {
                assert_eq!(parts.len(), 1, "parts of {}", slot.name);
                let tensors = self.layout.tensors(step, parts[0].to_host())?;
                self.write(step, |shard| put_all(shard, out, &tensors))
            }
        };
        written.map_err(|error| SinkError::new(&*slot.name, error))
    }

    fn rows_of(&mut self, step: &Step) -> Option<&mut dyn RowSink> {
        self.layout.takes_rows(step).then_some(self)
    }
}

impl RowSink for FolderSink<'_> {
    fn rows(&mut self, step: &Step, rows: RowBatch) -> Result<(), SinkError> {
        let written = self.write_rows(step, rows);
        written.map_err(|error| SinkError::new(&*step.slot.name, error))
    }

    /// Ends the tensor of the rows, and writes the others of the weight: those of its scales.
    fn end(&mut self, step: &Step, scales: Vec<u32>) -> Result<(), SinkError> {
        let others = match step.action.format() {
            None => Vec::new(),
            Some(format) => {
                let packed = Packed {
                    format,
                    shape: step.matrix(),
                    words: Vec::new(),
                    scales,
                };
                self.layout.tensors(step, packed)?
            }
        };
        let written = self.write(step, |shard| {
            let mut written = vec![shard.end()?];
            written.extend(put_all(shard, None, &others)?);
            Ok(written)
        });
        written.map_err(|error| SinkError::new(&*step.slot.name, error))
    }
}

/// What a folder has that a save is to fill.
#[derive(Debug)]
pub(crate) enum Earlier {
    /// Nothing.
    Empty,
    /// A save that was interrupted, of the same source and configuration.
    Interrupted(Journal),
    /// The complete checkpoint of the same source and configuration.
    Complete(Record),
}

impl Earlier {
    /// The action of each weight, if the folder has any.
    pub(crate) fn becomes(&self) -> Option<&[String]> {
        match self {
            Self::Interrupted(journal) if journal.is_begun() => Some(journal.becomes()),
            Self::Complete(record) => Some(record.becomes()),
            Self::Empty | Self::Interrupted(_) => None,
        }
    }
}

/// Looks at the folder. Refuses one with anything that is not of the same save, or with
/// anything where none is to be resumed.
pub(crate) fn find(
    output: &dyn Output,
    to: &SaveConfig,
    identity: &Identity,
) -> Result<Earlier, SaveError> {
    let folder = to.folder.clone();
    let failed = |error: io::Error| SaveError::at(&folder, 0)(error);
    let busy = if to.cache { Busy::Wait } else { Busy::Refuse };
    match Journal::find(output, busy)? {
        Some(journal) if to.resume => {
            journal.check(identity)?;
            return Ok(Earlier::Interrupted(journal));
        }
        Some(_) => return Err(SaveError::Unfinished { folder }),
        None => {}
    }
    // Files in the cache that have lost their journal are replaced.
    if to.cache || output.is_empty().map_err(failed)? {
        return Ok(Earlier::Empty);
    }
    let has = |file| -> Result<bool, SaveError> { Ok(output.len(file).map_err(failed)?.is_some()) };
    let record = Record::find(output).map_err(failed)?;
    let is_in_parts = record.as_ref().is_some_and(Record::is_gguf);
    if !to.resume || !(has(CONFIG)? || has(MODEL)? || is_in_parts) {
        return Err(SaveError::NotEmpty { folder });
    }
    match record {
        Some(record) => {
            record.check(output, &folder, identity)?;
            Ok(Earlier::Complete(record))
        }
        None => Err(SaveError::Complete {
            folder,
            difference: None,
        }),
    }
}

/// The type of a tensor that is carried over.
fn carried_type(step: &Step) -> StoredType {
    let tensor = step.tensors().next();
    tensor.map_or(StoredType::U8, |tensor| tensor.dtype)
}

/// The bytes of dense values as they are in a file: in little-endian order.
fn stored_bytes(dtype: DType, bytes: &[u8]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        return bytes.into();
    }
    let values = bytes.chunks(dtype.size());
    values
        .flat_map(|value| value.iter().rev().copied())
        .collect()
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = json::pretty(value);
    text.push('\n');
    text.into_bytes()
}
