//! Configuring the unpacked packages: their own maintainer scripts, in one sandbox.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;

use lamina_ground::{DEFAULT_PATH, null_device};
use lamina_sandbox::{ExitStatus, Network, SandboxSpec, Stdio, Upper};
use lamina_store::Work;
use lamina_workshop::Workshop;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Deserialize;

use crate::{BaseError, DebianPlan, PythonSource, standalone};

/// What the interpreter says about itself.
#[derive(Debug, Deserialize)]
pub(crate) struct Described {
    pub(crate) version: String,
    pub(crate) interpreter: String,
    pub(crate) site_packages: String,
}

/// Standard output carries the facts alone; what the scripts say goes where errors go.
const BEGIN: &str = "set -e
exec 3>&1 >&2
";
/// Compiles all of Python's modules while the packages are configured: the packages' own scripts would do it one after
/// the other, and differently each time. It is one process, so that the result does not depend on how work was shared.
/// What cannot be compiled (some modules are for other versions) is left alone, as the packages' scripts do.
const COMPILE: &str = r"cat /var/lib/dpkg/info/*.list | grep '^/usr/\(lib\|share\)/python3.*\.py$' | grep -v '/sitecustomize\.py$' |
    sort -u | python3 -S -m compileall -q -i - >/dev/null 2>&1 &
";
const CONFIGURE: &str = "dpkg --configure -a
wait
";
/// Lets no later package ask: commands of users have nobody who answers, and a question that meets the end of its input may
/// leave a package set up otherwise than by its defaults.
const ASK_NOBODY: &str = "echo debconf debconf/frontend select Noninteractive | debconf-set-selections
";
/// Compiles what the packages bring as a setting, which is there once they are configured. Debian's Python would compile it
/// at its first start by root; here every container is the first, and would do so again.
const COMPILE_SETTINGS: &str = "python3 -S -m compileall -q /usr/lib/python3*/sitecustomize.py >/dev/null 2>&1 || true
";
/// Where `pip` installs is the first site directory, on Debian's Pythons and on standalone ones.
const FACTS: &str = r#"python3 -I -B -c 'import json, platform, site, sys
print(json.dumps({"version": platform.python_version(), "interpreter": sys.executable,
                  "site_packages": site.getsitepackages()[0]}))' >&3
"#;

/// How many lines of output an error shows.
const TAIL_LINES: usize = 20;
/// Longest line that is kept whole; a log is for people.
const LINE_LIMIT: u64 = 64 << 10;
/// Most bytes of facts.
const FACTS_LIMIT: u64 = 64 << 10;

/// Configures the packages in the upper of `work`, with the upper as the whole root, and asks the Python about itself.
pub(crate) fn configure(
    plan: &DebianPlan,
    work: &Work,
    workshop: &Workshop<'_>,
    log: &mut (dyn Write + Send),
) -> Result<Described, BaseError> {
    let (output, output_end) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let (errors, errors_end) = pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let stdio = Stdio { stdin: null_device()?, stdout: output_end, stderr: errors_end, socket: None };
    let sandbox = Arc::new(workshop.launcher.spawn(&spec(plan, work), stdio)?);
    let killed = Arc::clone(&sandbox);
    let _guard = workshop.cancel.on_cancel(move || killed.kill());
    let (facts, tail) = std::thread::scope(|scope| {
        let facts = scope.spawn(|| {
            let mut text = String::new();
            File::from(output).take(FACTS_LIMIT).read_to_string(&mut text).map(|_| text)
        });
        let tail = copy_lines(File::from(errors), log);
        let facts = facts.join().unwrap_or_else(|_| Err(std::io::Error::other("a reading thread ended")));
        (facts, tail)
    });
    let exit = sandbox.wait()?;
    workshop.cancel.check()?;
    let failed = |status: String| BaseError::Configure {
        suite: plan.suite.name().into(),
        status,
        tail: tail.iter().map(String::as_str).collect::<Vec<_>>().join("\n"),
    };
    match exit.status {
        ExitStatus::Exited(0) => {}
        ExitStatus::Exited(code) => return Err(failed(format!("exit status {code}"))),
        ExitStatus::Signaled(_) if exit.out_of_memory => return Err(failed("out of memory".into())),
        ExitStatus::Signaled(signal) => return Err(failed(format!("ended by signal {signal}"))),
    }
    serde_json::from_str(&facts?).map_err(|error| failed(format!("Python does not describe itself: {error}")))
}

fn spec(plan: &DebianPlan, work: &Work) -> SandboxSpec {
    let script = match plan.python {
        PythonSource::Debian => [BEGIN, COMPILE, CONFIGURE, ASK_NOBODY, COMPILE_SETTINGS, FACTS].concat(),
        PythonSource::Standalone(_) => [BEGIN, CONFIGURE, ASK_NOBODY, standalone::COMPILE, FACTS].concat(),
    };
    let variables = [
        ("PATH", DEFAULT_PATH),
        ("HOME", "/root"),
        ("LC_ALL", "C"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        // Sets in compiled Python keep one order.
        ("PYTHONHASHSEED", "0"),
    ];
    SandboxSpec {
        hostname: "localhost".into(),
        upper: Upper::Store { upper: work.upper(), work: work.work_directory() },
        argv: vec!["/bin/sh".into(), "-c".into(), script],
        env: variables.map(|(name, value)| (name.into(), value.into())).into(),
        network: Network::Isolated,
        ignore_sync: true,
        ..SandboxSpec::default()
    }
}

/// Copies lines into the log; answers the last ones.
fn copy_lines(from: impl Read, log: &mut (dyn Write + Send)) -> VecDeque<String> {
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    while (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        // The packages count, not their log.
        let _ = log.write_all(&line);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
        line.clear();
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let lines: Vec<_> = (0..50).map(|number| format!("{number}\n")).collect();
        let text = lines.concat();
        let mut log = Vec::new();
        let tail = copy_lines(text.as_bytes(), &mut log);
        assert_eq!(log, text.as_bytes());
        assert_eq!((tail.len(), tail[0].as_str(), tail[19].as_str()), (20, "30", "49"));
    }
}
