//! Signals that would end the program without a word.
//!
//! | signal | raised by | becomes |
//! |---|---|---|
//! | `SIGBUS` | a page of a mapped file that another program has cut, or that the disk cannot read | one line, exit code 1 |
//! | `SIGXFSZ` | a file that grows beyond `ulimit -f` | the error of a write, as everywhere else |

use core::{ffi::c_int, mem, ptr};

/// All that the handler says: it may not allocate.
const MAPPED: &[u8] = b"error: a file that is mapped into memory was cut by another program, or its disk could not be read, \
while its weights were in use; read a copy that does not change, or read with `--reading buffered`\n";

/// Installs the handlers. A system that refuses one keeps its own way.
pub(crate) fn install() {
    // SAFETY: a zeroed `sigaction` is valid: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = mapped as *const () as libc::sighandler_t;
    // On a stack of its own where the thread has one; a second fault in the handler ends the process.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: `action` lives during the call, `mapped` has the signature that `SA_SIGINFO` asks for and calls only functions
    // that a handler may call, and ignoring `SIGXFSZ` runs no code.
    unsafe {
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Says what happened and leaves. Other faults of this signal are bugs: they happen again after the return, without a
/// handler, and end the process as they would have.
extern "C" fn mapped(_: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the system passes a valid `info`; `write` and `_exit` may be called in a handler, and the text is static.
    unsafe {
        if [libc::BUS_ADRERR, libc::BUS_MCEERR_AR].contains(&(*info).si_code) {
            libc::write(libc::STDERR_FILENO, MAPPED.as_ptr().cast(), MAPPED.len());
            libc::_exit(1);
        }
    }
}
