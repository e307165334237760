use std::{
    env,
    fs::File,
    io::{self, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use firebox::config::Reading;
use firebox::source::{Local, Source, SourceExt};
use memmap2::MmapMut;
use rustix::fs::{Advice, fadvise};

use super::Failure;

const NAME: &str = "model.safetensors";
const PAGE: usize = 4096;
const MODES: [Reading; 3] = [Reading::Buffered, Reading::Mapped, Reading::Direct];
const THREADS: [usize; 3] = [1, 2, 4];
const SIZES: [usize; 3] = [1 << 20, 4 << 20, 16 << 20];
/// Bytes of a weight that is read straight into its place.
const WEIGHT: u64 = 128 << 20;

pub(crate) fn run() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let folder = match args.first() {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
    };
    let gib: u64 = args.get(1).map_or(Ok(2), |gib| gib.parse())?;
    let rounds: usize = args.get(2).map_or(Ok(3), |rounds| rounds.parse())?;
    let folder = tempfile::TempDir::new_in(folder)?;
    let data = Data::write(folder.path(), gib << 30)?;

    for mode in MODES {
        data.check_whole(mode)?;
    }
    for cold in [true, false] {
        data.probe(cold)?;
        data.modes(cold, rounds)?;
    }
    data.destinations(rounds)
}

/// The file that is read. A word at byte `i` is a mix of `i`.
struct Data {
    folder: PathBuf,
    file: File,
    len: u64,
}

impl Data {
    fn write(folder: &Path, len: u64) -> io::Result<Self> {
        let path = folder.join(NAME);
        let mut to = BufWriter::with_capacity(1 << 20, File::create(&path)?);
        for at in (0..len).step_by(8) {
            to.write_all(&word(at).to_le_bytes())?;
        }
        to.into_inner()?.sync_all()?;
        Ok(Self {
            folder: folder.to_owned(),
            file: File::open(path)?,
            len,
        })
    }

    fn source(&self, mode: Reading) -> Result<Local, Failure> {
        Ok(Local::open(&self.folder)?.reading(mode))
    }

    /// Takes the file out of the page cache, or brings it there.
    fn prepare(&self, cold: bool) -> Result<(), Failure> {
        if cold {
            fadvise(&self.file, 0, None, Advice::DontNeed)?;
        } else {
            let mut buffer = vec![0; 4 << 20];
            let source = self.source(Reading::Buffered)?;
            for at in (0..self.len).step_by(buffer.len()) {
                source.read_at(NAME, at, &mut buffer)?;
            }
        }
        let held = self.held()?;
        let as_wanted = if cold { held < 0.02 } else { held > 0.98 };
        if as_wanted {
            Ok(())
        } else {
            Err(format!("{:.0} % are in the page cache", 100.0 * held).into())
        }
    }

    /// The share that is in the page cache.
    fn held(&self) -> io::Result<f64> {
        // SAFETY: Nothing is read from this map.
        let map = unsafe { memmap2::Mmap::map(&self.file) }?;
        let mut pages = vec![0_u8; map.len().div_ceil(PAGE)];
        let start = map.as_ptr().cast_mut().cast();
        // SAFETY: There is a byte for every page of the map; pages are of 4096 bytes or larger.
        if unsafe { libc::mincore(start, map.len(), pages.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let held = pages.iter().filter(|page| **page & 1 == 1).count();
        Ok(held as f64 / pages.len() as f64)
    }

    fn check_whole(&self, mode: Reading) -> Result<(), Failure> {
        let source = self.source(mode)?;
        let mut buffer = vec![0; 4 << 20];
        for at in (0..self.len).step_by(buffer.len()) {
            source.read_at(NAME, at, &mut buffer)?;
            for (i, found) in buffer.chunks_exact(8).enumerate() {
                assert_eq!(found, word(at + 8 * i as u64).to_le_bytes(), "{mode}");
            }
        }
        Ok(())
    }

    /// What `auto` chooses, and that it looks where it should.
    fn probe(&self, cold: bool) -> Result<(), Failure> {
        self.prepare(cold)?;
        let source = self.source(Reading::Auto)?;
        let mut buffer = vec![0; 4 << 20];
        let started = Instant::now();
        source.read_at(NAME, 0, &mut buffer)?;
        let took = started.elapsed();
        let probe = source.probe().ok_or("auto did not look")?;
        println!(
            "\n{}: {probe:?}, {took:.0?} with the first read\n",
            state(cold)
        );
        if cold {
            assert!(probe.cached_fraction.is_some_and(|held| held < 0.1));
            assert!(probe.buffered_gbps.is_some() && probe.direct_gbps.is_some());
        } else {
            assert!(probe.cached_fraction.is_some_and(|held| held > 0.9));
            assert_ne!(probe.chosen, Reading::Direct);
        }
        Ok(())
    }

    /// Every mode, and plain reads by one thread into one buffer to compare with.
    fn modes(&self, cold: bool, rounds: usize) -> Result<(), Failure> {
        let mut rows: Vec<Row> = vec![Row::new("plain".to_owned(), None, 1, 4 << 20)];
        for mode in MODES {
            for threads in THREADS {
                let sizes = SIZES.map(|size| Row::new(mode.to_string(), Some(mode), threads, size));
                rows.extend(sizes);
            }
        }
        for threads in THREADS {
            let name = "direct, memory off by 16".to_owned();
            let row = Row::new(name, Some(Reading::Direct), threads, 4 << 20);
            rows.push(Row { off: 16, ..row });
        }
        for _ in 0..rounds {
            for row in &mut rows {
                self.prepare(cold)?;
                row.measure(|row| self.read(row))?;
            }
        }
        println!(
            "| {} | threads | request | GB/s | of plain | CPU s/GB |",
            state(cold)
        );
        println!("|---|---|---|---|---|---|");
        let plain = median(&mut rows[0].rates);
        for row in &mut rows {
            let (rate, cpu) = (median(&mut row.rates), median(&mut row.cpu));
            println!(
                "| {} | {} | {} MiB | {rate:.2} | {:.0} % | {cpu:.2} |",
                row.name,
                row.threads,
                row.size >> 20,
                100.0 * rate / plain,
            );
        }
        Ok(())
    }

    fn read(&self, row: &Row) -> Result<u64, Failure> {
        use std::os::unix::fs::FileExt;

        let source = self.source(row.mode.unwrap_or(Reading::Buffered))?;
        let buffers = row.buffers()?;
        self.by_threads(row.size as u64, buffers, |buffer, range| {
            let buffer = &mut buffer[row.off..];
            match row.mode {
                Some(_) => source.read_at(NAME, range.start, buffer)?,
                None => self.file.read_exact_at(buffer, range.start)?,
            }
            check(buffer, range.start);
            Ok(())
        })
    }

    /// Where bytes land: memory that was used before, or that the system has to find first.
    fn destinations(&self, rounds: usize) -> Result<(), Failure> {
        println!("\n| into, from the page cache | threads | GB/s | CPU s/GB |");
        println!("|---|---|---|---|");
        let kinds = [
            "one buffer of 4 MiB",
            "fresh 128 MiB",
            "fresh 128 MiB, huge pages",
        ];
        for (kind, name) in kinds.into_iter().enumerate() {
            for threads in [1, 2] {
                let mut row = Row::new(name.to_owned(), Some(Reading::Buffered), threads, 4 << 20);
                for _ in 0..rounds {
                    self.prepare(false)?;
                    row.measure(|row| self.fill(row, kind))?;
                }
                let (rate, cpu) = (median(&mut row.rates), median(&mut row.cpu));
                println!("| {name} | {threads} | {rate:.2} | {cpu:.2} |");
            }
        }
        Ok(())
    }

    fn fill(&self, row: &Row, kind: usize) -> Result<u64, Failure> {
        let source = self.source(Reading::Buffered)?;
        let buffers = row.buffers()?;
        self.by_threads(WEIGHT, buffers, |buffer, range| {
            let len = (range.end - range.start) as usize;
            // Zeroed memory of this size is not touched until it is read into.
            let mut fresh = match kind {
                0 => MmapMut::map_anon(PAGE)?,
                _ => MmapMut::map_anon(len)?,
            };
            if kind == 2 {
                fresh.advise(memmap2::Advice::HugePage)?;
            }
            for (i, at) in range.clone().step_by(row.size).enumerate() {
                let count = row.size.min((range.end - at) as usize);
                let into = match kind {
                    0 => &mut buffer[..count],
                    _ => &mut fresh[i * row.size..][..count],
                };
                source.read_at(NAME, at, into)?;
                check(into, at);
            }
            Ok(())
        })
    }

    /// Cuts the file into parts, which threads take in order, one buffer each.
    fn by_threads(
        &self,
        part: u64,
        buffers: Vec<MmapMut>,
        read: impl Fn(&mut [u8], Range<u64>) -> Result<(), Failure> + Sync,
    ) -> Result<u64, Failure> {
        let next = AtomicU64::new(0);
        let failed: Mutex<Option<String>> = Mutex::default();
        std::thread::scope(|scope| {
            for mut buffer in buffers {
                let (next, failed, read) = (&next, &failed, &read);
                scope.spawn(move || {
                    loop {
                        let start = next.fetch_add(part, Ordering::Relaxed);
                        if start >= self.len {
                            return;
                        }
                        let end = (start + part).min(self.len);
                        if let Err(error) = read(&mut buffer, start..end) {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            *failed = Some(error.to_string());
                            return;
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.into()),
            None => Ok(self.len),
        }
    }
}

struct Row {
    name: String,
    mode: Option<Reading>,
    threads: usize,
    size: usize,
    /// How far the buffer is from the beginning of a page: tensors begin anywhere.
    off: usize,
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

impl Row {
    fn new(name: String, mode: Option<Reading>, threads: usize, size: usize) -> Self {
        let (rates, cpu) = Default::default();
        Self {
            name,
            mode,
            threads,
            size,
            off: 0,
            rates,
            cpu,
        }
    }

    /// One for each thread, written to before the clock starts.
    fn buffers(&self) -> io::Result<Vec<MmapMut>> {
        let filled = |_| {
            let mut buffer = MmapMut::map_anon(self.size + self.off)?;
            buffer.fill(1);
            Ok(buffer)
        };
        (0..self.threads).map(filled).collect()
    }

    fn measure(&mut self, read: impl Fn(&Self) -> Result<u64, Failure>) -> Result<(), Failure> {
        let (cpu, started) = (cpu()?, Instant::now());
        let gb = read(self)? as f64 / 1e9;
        self.rates.push(gb / started.elapsed().as_secs_f64());
        self.cpu.push((self::cpu()? - cpu) / gb);
        Ok(())
    }
}

/// One word of every page.
fn check(bytes: &[u8], offset: u64) {
    for (i, page) in bytes.chunks(PAGE).enumerate() {
        assert_eq!(
            page[..8],
            word(offset + (i * PAGE) as u64).to_le_bytes(),
            "page {i} after {offset}"
        );
    }
}

fn word(at: u64) -> u64 {
    let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Seconds of processor time of this process.
fn cpu() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, which may have anything in it: fields 14 and 15 of the line, in hundredths.
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    let ticks: Vec<u64> = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / 100.0)
}

fn state(cold: bool) -> &'static str {
    if cold { "cold" } else { "warm" }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
