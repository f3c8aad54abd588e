//! The `pikoscope` command; everything is in the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    // A bug, by definition; still one line, and no backtrace on a user's terminal.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("pikoscope: internal error: {}", panic.to_string().replace('\n', " "))
    }));
    pikoscope::cli::main()
}
