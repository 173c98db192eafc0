//! Sandboxes from a running engine, without the rest of the engine: starts the helpers of a `modal` program on a content
//! directory once, runs a command so many times in a sandbox on one of its layers, and prints the milliseconds of each.
//!
//! `start_sandboxes MODAL CONTENT LAYER COUNT limits|free COMMAND...`

#![expect(clippy::print_stdout, reason = "what it measures is its output")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use lamina_ground::Stack;
use lamina_sandbox::{ExitStatus, Helpers, IdMap, Limits, SandboxSpec, Stdio};

const WARM_UP: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [modal, content, layer, count, limits, command @ ..] = words.as_slice() else {
        return Err("usage: start_sandboxes MODAL CONTENT LAYER COUNT limits|free COMMAND...".into());
    };
    let limited = Limits { memory_bytes: Some(512 << 20), pids: Some(100), ..Limits::default() };
    let spec = SandboxSpec {
        layers: Stack::from_bottom_up([layer.as_str().into()]),
        argv: command.to_vec(),
        env: vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())],
        limits: if limits == "limits" { limited } else { Limits::default() },
        ..SandboxSpec::default()
    };
    let helpers = Helpers::start_with(Path::new(modal), Path::new(content), &IdMap::for_current_user()?, &[])?;
    for round in 0..WARM_UP + count.parse::<usize>()? {
        let start = Instant::now();
        let exit = helpers.launcher.spawn(&spec, Stdio::null()?)?.wait()?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        if exit.status != ExitStatus::Exited(0) {
            return Err(format!("the command ended with {:?}", exit.status).into());
        }
        if round >= WARM_UP {
            println!("{milliseconds}");
        }
    }
    Ok(())
}
