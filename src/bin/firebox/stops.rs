//! Signals that ask for the end: of a training run, which then saves a checkpoint first, and of an upload, which is given up.

use core::{
    fmt,
    sync::atomic::{AtomicI32, Ordering},
};

/// The signal that asked for the end; 0 before one did.
static STOP: AtomicI32 = AtomicI32::new(0);

/// The signal of Ctrl-C.
pub(crate) const INTERRUPT: i32 = 2;

/// From its installation on, the first `SIGINT` or `SIGTERM` asks for the end, and a second one ends the process at once. Systems
/// other than Linux keep their own way.
#[derive(Debug)]
pub(crate) struct Stops(());

impl Stops {
    pub(crate) fn install() -> Self {
        #[cfg(target_os = "linux")]
        linux::install();
        Self(())
    }

    /// The signal that asked for the end.
    pub(crate) fn signal(&self) -> Option<i32> {
        signalled()
    }
}

/// The signal that asked for the end, where signals are [looked for](Stops::install).
pub(crate) fn signalled() -> Option<i32> {
    Some(STOP.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// A run that a signal ended. The program leaves with 128 and the number of the signal, as shells have it.
#[derive(Debug)]
pub(crate) struct Signalled {
    pub(crate) signal: i32,
    pub(crate) said: String,
}

impl Signalled {
    pub(crate) fn code(&self) -> u8 {
        u8::try_from(128 + self.signal).unwrap_or(1)
    }
}

impl fmt::Display for Signalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Signalled {}

#[cfg(target_os = "linux")]
mod linux {
    use core::{ffi::c_int, mem, ptr, sync::atomic::Ordering};

    pub(super) fn install() {
        // SAFETY: a zeroed `sigaction` is valid: no flags, an empty mask, the default handler.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = asked as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        for signal in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: `action` lives during the call, and `asked` only stores a number.
            unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
        }
    }

    extern "C" fn asked(signal: c_int) {
        super::STOP.store(signal, Ordering::Relaxed);
    }
}
