//! NVIDIA's assembler of PTX, where the program `ptxas` is on the path: what the driver does with PTX when a
//! kernel is first launched.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use crate::ARCHITECTURE;

/// What a kernel needs of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a unit.
    pub registers: u32,
    /// Bytes that a unit stores for want of registers.
    pub spilled: u32,
    /// Bytes of memory of a unit's own: spilled ones, and arrays that are not registers.
    pub stack: u32,
}

/// Whether the program is there.
pub fn is_present() -> bool {
    let mut command = Command::new("ptxas");
    command.arg("--version").stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Assembles PTX.
///
/// # Errors
///
/// What the program says.
pub fn assemble(ptx: &str) -> Result<Resources, String> {
    let mut command = Command::new("ptxas");
    command.args(["-arch", ARCHITECTURE, "-v", "-o", "/dev/null", "-"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that refuses early closes the pipe; what it says is of interest then, not the pipe.
    let _ = stdin.write_all(ptx.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(said);
    }
    let number = |after: &str| {
        let words: Vec<&str> = said.split_whitespace().collect();
        let found = words
            .windows(2 + after.split(' ').count())
            .find_map(|words| {
                (words[1..words.len() - 1].join(" ").trim_end_matches(',') == after)
                    .then(|| words[0].parse().ok())
                    .flatten()
            });
        found.ok_or_else(|| format!("no number of {after} in {said}"))
    };
    Ok(Resources {
        registers: number("registers")?,
        spilled: number("bytes spill stores")?,
        stack: number("bytes stack frame")?,
    })
}
