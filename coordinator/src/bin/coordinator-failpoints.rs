//! The coordinator built so that a test can end it at a chosen point.
//!
//! `HOLDFAST_FAILPOINTS_FILE` names a file that is looked at all the time; while it says
//! `log_after_sync=panic`, the process ends when it reaches that point. What was taken from it stands in
//! a file beside it that ends in `.armed`. `FAILPOINTS` in the environment does the same from the start.
//! `coordinator-failpoints failpoints` lists the points and when each is reached, as JSON.

#[path = "../main.rs"]
mod program;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("failpoints") {
        println!("{}", serde_json::json!(coordinator::failpoint::list()));
        return ExitCode::SUCCESS;
    }
    // Reads FAILPOINTS; the points live as long as it does.
    let _scenario = fail::FailScenario::setup();
    if let Some(file) = std::env::var_os("HOLDFAST_FAILPOINTS_FILE") {
        let mut armed = String::new();
        look(Path::new(&file), &mut armed);
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(LOOK);
                look(Path::new(&file), &mut armed);
            }
        });
    }
    program::main()
}

/// Arms what the file says, and disarms what it said before. No file disarms.
fn look(file: &Path, armed: &mut String) {
    let wanted = std::fs::read_to_string(file).unwrap_or_default();
    if wanted == *armed {
        return;
    }
    if let Some((name, _)) = armed.split_once('=') {
        fail::remove(name);
    }
    if let Some((name, action)) = wanted.trim().split_once('=')
        && let Err(why) = fail::cfg(name, action)
    {
        eprintln!("failpoint {name}={action}: {why}");
    }
    *armed = wanted;
    if let Err(error) = std::fs::write(file.with_extension("armed"), armed) {
        eprintln!("failpoints: {}: {error}", file.display());
    }
}
