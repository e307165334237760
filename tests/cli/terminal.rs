//! `finetune` in a terminal: Burn's interface, and keys that end the run.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    ptr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::finetune::Bench;

/// More than are done before two keys are pressed.
const STEPS: u64 = 24;

/// Longer than a slow computer takes for a few small steps.
const PATIENCE: Duration = Duration::from_secs(120);

/// A terminal with a program in it.
struct Terminal {
    child: Child,
    keys: File,
    /// What the program has drawn so far.
    drawn: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open(command: &mut Command) -> Self {
        let (mut main, mut other) = (0, 0);
        let size = libc::winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: both numbers and the size live during the call, the other pointers may be null.
        let opened = unsafe {
            libc::openpty(
                &mut main,
                &mut other,
                ptr::null_mut(),
                ptr::null_mut(),
                &raw const size,
            )
        };
        assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the call has opened both, and nobody else has them.
        let [main, other] = [main, other].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        let same = |fd: &OwnedFd| fd.try_clone().expect("one more of it");
        // SAFETY: both calls may be made between fork and exec: the terminal becomes that of a session of the program's own, so that
        // its keys can be signals.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                match libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command
            .stdin(Stdio::from(same(&other)))
            .stdout(Stdio::from(other))
            .stderr(Stdio::piped())
            .env("TERM", "xterm-256color")
            .spawn()
            .expect("the program was built for the tests");
        // The command holds the ends of the program; without them the terminal closes with the program.
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let drawn = Arc::new(Mutex::new(Vec::new()));
        let (keys, mut screen) = (File::from(same(&main)), File::from(main));
        let seen = Arc::clone(&drawn);
        thread::spawn(move || {
            let mut some = [0; 4096];
            // A terminal whose program has ended is an error.
            while let Ok(count @ 1..) = screen.read(&mut some) {
                seen.lock().expect("no panic").extend(&some[..count]);
            }
        });
        Self { child, keys, drawn }
    }

    fn has_drawn(&self, text: &str) -> bool {
        let drawn = self.drawn.lock().expect("no panic");
        drawn
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }

    /// Presses a key once the screen has shown a text.
    fn press(&mut self, key: &str, after: &str) {
        self.wait_for(after);
        self.keys.write_all(key.as_bytes()).expect("a terminal");
    }

    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.has_drawn(text) {
            assert!(began.elapsed() < PATIENCE, "{text:?} was not drawn");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the program wrote to stderr, when it has ended.
    fn words(&mut self) -> String {
        let mut words = String::new();
        let stderr = self.child.stderr.as_mut().expect("it is piped");
        stderr.read_to_string(&mut words).expect("text");
        words
    }
}

/// Both answers to Burn's question that end the training, and Ctrl-C, save a checkpoint and end as SIGINT does. Catches a panic of Burn that ends the
/// program, a step that is waited for, and a terminal that is left without its cursor.
#[test]
fn keys_that_end_the_run_lose_nothing() {
    let bench = Bench::new();
    bench.answer("whole", STEPS, &[]);
    for keys in [
        &[("q", "Perplexity"), ("s", "Stop the training.")][..],
        &[("q", "Perplexity"), ("k", "Kill the program.")],
        // Ctrl-C, once a step is there.
        &[("\x03", "nats")],
    ] {
        let (key, _) = keys[keys.len() - 1];
        let out = format!("out-{}", keys.len() + usize::from(key == "k"));
        let mut terminal = Terminal::open(&mut bench.command(&out, STEPS, &[]));
        for (key, after) in keys {
            terminal.press(key, after);
        }
        let words = terminal.words();
        let status = terminal.child.wait().expect("a child of ours");
        assert_eq!(status.code(), Some(130), "{key:?}: {words}");
        assert!(words.contains("--resume goes on"), "{key:?}: {words}");
        assert!(!words.contains("panicked"), "{key:?}: {words}");
        for back in ["\x1b[?1049l", "\x1b[?25h"] {
            terminal.wait_for(back);
        }
        let answer = bench.answer(&out, STEPS, &["--resume"]);
        assert!(answer["steps_run"].as_u64() > Some(0), "{key:?}: {answer}");
        bench.assert_same(&out, "whole");
    }
}
