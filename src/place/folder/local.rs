//! A folder of this machine.
//!
//! ```text
//! NAME.partial   length and header, empty still │ tensors …
//! NAME.late      tensors that are not whole eights of bytes
//! ```
//!
//! A file is complete or absent: it is written under another name and renamed.

use core::ops::Range;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use super::{
    SaveError,
    journal::JOURNAL,
    output::{Busy, JournalFile, Output, Reopened, ShardBytes},
    written::{ShardPlace, Written, checksum, ends},
};

/// A folder of this machine.
#[derive(Debug)]
pub(super) struct LocalOutput {
    folder: PathBuf,
}

impl LocalOutput {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn late(&self, file: &str) -> PathBuf {
        self.folder.join(format!("{file}.late"))
    }
}

impl Output for LocalOutput {
    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn partial(&self, file: &str) -> PathBuf {
        self.folder.join(format!("{file}.partial"))
    }

    fn admit(&self, _: u64, _: u64) -> Result<u64, SaveError> {
        Ok(0)
    }

    fn is_empty(&self) -> io::Result<bool> {
        match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
            entries => Ok(entries?.next().is_none()),
        }
    }

    fn len(&self, file: &str) -> io::Result<Option<u64>> {
        Ok(self.path(file).metadata().ok().map(|file| file.len()))
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(file)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            bytes => bytes.map(Some),
        }
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let len = fs::metadata(&path).map(|found| found.len());
        // What is as long is read; anything else may have no end.
        if len.is_ok_and(|len| len == bytes.len() as u64)
            && fs::read(&path).is_ok_and(|found| found == bytes)
        {
            return Ok(());
        }
        let partial = self.partial(file);
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rename(&partial, &path)
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        remove(&self.path(file))
    }

    fn journal(&self, busy: Busy) -> Result<Option<Box<dyn JournalFile>>, SaveError> {
        let path = self.path(JOURNAL);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(SaveError::at(&path, 0))?,
        };
        let journal = LocalJournal { file, path };
        journal.lock(busy)?;
        // The last owner of the lock may just have removed the file.
        if !journal.path.exists() {
            return Ok(None);
        }
        Ok(Some(Box::new(journal)))
    }

    fn new_journal(&self) -> Result<Box<dyn JournalFile>, SaveError> {
        fs::create_dir_all(&self.folder).map_err(SaveError::at(&self.folder, 0))?;
        let path = self.path(JOURNAL);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => SaveError::Busy {
                folder: self.folder.clone(),
            },
            _ => SaveError::at(&path, 0)(error),
        })?;
        let journal = LocalJournal { file, path };
        journal.lock(Busy::Refuse)?;
        Ok(Box::new(journal))
    }

    fn begin(&self, place: &ShardPlace) -> io::Result<Box<dyn ShardBytes>> {
        LocalShard::open(self, place, 0, None)
    }

    fn reopen(&self, place: &ShardPlace, steps: &[Vec<Written>]) -> io::Result<Reopened> {
        let sound = {
            let data = open_to_read(&self.partial(&place.name))?;
            let late = open_to_read(&self.late(&place.name))?;
            let is_sound = |tensor: &Written| match (tensor.late, &data, &late) {
                (false, Some(file), _) => is_in(tensor, file, place.base()),
                (true, _, Some(file)) => is_in(tensor, file, 0),
                _ => Ok(false),
            };
            let mut sound = 0;
            'steps: for step in steps {
                for tensor in step {
                    if !is_sound(tensor)? {
                        break 'steps;
                    }
                }
                sound += 1;
            }
            sound
        };
        let [data, late] = ends(steps[..sound].iter().flatten());
        let data = place.aligned(data);
        let shard = LocalShard::open(self, place, data, Some(late).filter(|late| *late > 0))?;
        Ok((sound, Some(shard)))
    }

    fn is_finished(&self, place: &ShardPlace, written: &[Written]) -> io::Result<bool> {
        let Some(mut file) = open_to_read(&self.path(&place.name))? else {
            return Ok(false);
        };
        let head = place.head(written);
        if file.metadata()?.len() != place.base() + place.data_len(written) {
            return Ok(false);
        }
        let mut found = vec![0; head.len()];
        file.read_exact(&mut found)?;
        if found != head {
            return Ok(false);
        }
        for (tensor, at) in place.ranges(written) {
            if checksum(&file, place.base() + at.start..place.base() + at.end)? != tensor.xxh3 {
                return Ok(false);
            }
        }
        // It may have been given its name just before the end.
        remove(&self.late(&place.name))?;
        Ok(true)
    }

    fn keeps_unfinished(&self) -> bool {
        true
    }

    /// They got them one by one.
    fn publish(&self, _: &[String]) -> io::Result<()> {
        Ok(())
    }
}

/// A file of weights under way.
struct LocalShard {
    path: PathBuf,
    partial: PathBuf,
    data: BufWriter<File>,
    late_path: PathBuf,
    late: Option<BufWriter<File>>,
}

impl LocalShard {
    /// Opens or makes the files, and cuts them after so many bytes of data and of late tensors.
    fn open(
        output: &LocalOutput,
        place: &ShardPlace,
        data: u64,
        late: Option<u64>,
    ) -> io::Result<Box<dyn ShardBytes>> {
        let partial = output.partial(&place.name);
        let late_path = output.late(&place.name);
        Ok(Box::new(Self {
            path: output.path(&place.name),
            data: open_to_grow(&partial, place.base() + data)?,
            partial,
            late: late
                .map(|late| open_to_grow(&late_path, late))
                .transpose()?,
            late_path,
        }))
    }
}

impl ShardBytes for LocalShard {
    fn append(&mut self, late: bool, bytes: &[u8]) -> io::Result<()> {
        let stream = match (late, &mut self.late) {
            (false, _) => &mut self.data,
            (true, Some(stream)) => stream,
            (true, none) => none.insert(open_to_grow(&self.late_path, 0)?),
        };
        stream.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let late = self.late.as_mut();
        late.map_or(Ok(()), Write::flush)?;
        self.data.flush()
    }

    fn finish(mut self: Box<Self>, head: &[u8], late: &[Range<u64>]) -> io::Result<()> {
        self.flush()?;
        if !late.is_empty() {
            let mut from = File::open(&self.late_path)?;
            for range in late {
                from.seek(SeekFrom::Start(range.start))?;
                let bytes = range.end - range.start;
                if io::copy(&mut (&mut from).take(bytes), &mut self.data)? != bytes {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
        }
        let file = &mut self.data;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(head)?;
        file.flush()?;
        file.get_ref().sync_all()?;
        rename(&self.partial, &self.path)?;
        remove(&self.late_path)
    }
}

/// The journal, which is locked while this lives.
#[derive(Debug)]
pub(super) struct LocalJournal {
    file: File,
    path: PathBuf,
}

impl LocalJournal {
    /// The journal of `folder`, to be read alone: others may be writing it.
    pub(super) fn look(folder: &Path) -> Result<Option<Box<dyn JournalFile>>, SaveError> {
        let path = folder.join(JOURNAL);
        let file = open_to_read(&path).map_err(SaveError::at(&path, 0))?;
        Ok(file.map(|file| Box::new(Self { file, path }) as Box<dyn JournalFile>))
    }

    /// Empties the journal of `folder`, if there is one.
    pub(super) fn forget(folder: &Path) -> Result<(), SaveError> {
        let path = folder.join(JOURNAL);
        let file = match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file.map_err(SaveError::at(&path, 0))?,
        };
        let journal = Self { file, path };
        journal.lock(Busy::Wait)?;
        let cut = journal.file.set_len(0);
        cut.map_err(SaveError::at(&journal.path, 0))
    }

    /// Held until the journal is dropped, or the process ends.
    fn lock(&self, busy: Busy) -> Result<(), SaveError> {
        let Self { file, path } = self;
        let locked = match busy {
            Busy::Wait => file.lock(),
            Busy::Refuse => match file.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    let folder = path.parent().unwrap_or(path).to_owned();
                    return Err(SaveError::Busy { folder });
                }
                Err(TryLockError::Error(error)) => Err(error),
                Ok(()) => Ok(()),
            },
        };
        match locked {
            // Some network folders have no locks.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(path = %path.display(), "cannot be locked; let no other process write this folder");
                Ok(())
            }
            locked => locked.map_err(SaveError::at(path, 0)),
        }
    }
}

impl JournalFile for LocalJournal {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.file.read_to_end(&mut text)?;
        Ok(text)
    }

    fn write_at(&mut self, at: u64, line: &[u8]) -> io::Result<()> {
        self.file.set_len(at)?;
        self.file.seek(SeekFrom::Start(at))?;
        self.file.write_all(line)
    }

    fn cut(&mut self, at: u64) -> io::Result<()> {
        self.file.set_len(at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn remove(self: Box<Self>) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Closing the file is not enough: a process that is being started by another thread may have it open still.
impl Drop for LocalJournal {
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::debug!(path = %self.path.display(), %error, "could not be unlocked");
        }
    }
}

/// Opens or makes a file that grows, and cuts it after `len` bytes.
fn open_to_grow(path: &Path, len: u64) -> io::Result<BufWriter<File>> {
    let mut options = OpenOptions::new();
    let mut file = options
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    file.set_len(len)?;
    file.seek(SeekFrom::End(0))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

/// Whether the bytes of a tensor are in a file under way, as they were written.
fn is_in(tensor: &Written, file: &File, base: u64) -> io::Result<bool> {
    let range = tensor.range();
    if file.metadata()?.len() < base.saturating_add(range.end) {
        return Ok(false);
    }
    Ok(checksum(file, base + range.start..base + range.end)? == tensor.xxh3)
}

fn open_to_read(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Renames a file within its folder, for good: the folder is on the disk too.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(to)
}

/// Folders can be opened as files on Unix alone; on other systems renaming is as durable as the system makes it.
#[cfg(unix)]
fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| *folder != Path::new(""));
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}
