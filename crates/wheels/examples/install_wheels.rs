//! Installs a requirements file into a layer of a store, and says how long each part took.
//!
//! `install_wheels STORE UV REQUIREMENTS [BASE]`: `BASE` is a directory below the store's `content` that holds an image
//! with a Debian 12 Python, for example `views/<digest>`; without it nothing is compiled.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use lamina_devices::Lender;
use lamina_events::CancelToken;
use lamina_ground::Stack;
use lamina_sandbox::{Helpers, IdMap, SandboxError};
use lamina_store::{CommitRules, JobTable, Layout, Store};
use lamina_wheels::{Inside, Installation, Installer, Request, RequirementsFile, Target};
use lamina_workshop::{HostPrograms, Workshop};

fn worker(socket: UnixStream) {
    lamina_store::worker_main(socket, Path::new("/store"), lamina_wheels::jobs(JobTable::new()), || ());
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == "__helpers") {
        lamina_sandbox::helpers_main(worker);
    }
    let [_, root, uv, requirements, base @ ..] = arguments.as_slice() else {
        return Err("usage: install_wheels STORE UV REQUIREMENTS [BASE]".into());
    };
    let base = &Stack::from_top_down(base.iter().map(|view| view.as_str().into()));
    let layout = Layout::prepare(Path::new(root))?;
    let map = match fs_err::read(layout.id_map_file()) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => IdMap::for_current_user()?,
    };
    fs_err::write(layout.id_map_file(), serde_json::to_vec(&map)?)?;
    let helpers = Helpers::start(&layout.content(), &map, &[])?;
    let store = Store::open(layout, helpers.worker)?;
    let target = Target {
        python: "3.11".to_owned(),
        interpreter: "/usr/bin/python3".to_owned(),
        base_interpreter: "/usr/bin/python3".to_owned(),
        is_environment: false,
        site_packages: "/usr/local/lib/python3.11/dist-packages".to_owned(),
        scripts: "/usr/local/bin".to_owned(),
        prefix: "/usr/local".to_owned(),
        libc: lamina_image::Libc::Glibc(2, 36),
        machine: std::env::consts::ARCH.to_owned(),
    };
    let mut output = std::io::stdout();
    let mut clock = Instant::now();
    let mut say = |what: &str| {
        let seconds = clock.elapsed().as_secs_f64();
        clock = Instant::now();
        writeln!(output, "{seconds:7.3} s  {what}")
    };

    let cancel = CancelToken::new();
    let contents = fs_err::read_to_string(requirements)?;
    let file = RequirementsFile { name: requirements.clone(), contents };
    let request = Request { requirements: vec![file], installer: Installer::Uv, ..Request::default() };
    let sites = [target.site_packages.clone(), "/usr/lib/python3/dist-packages".to_owned()];
    let inside = Inside {
        installer: request.installer,
        target: &target,
        environment: &BTreeMap::new(),
        working_directory: "/",
        sites: &sites,
        unwanted: &[],
        trusted: 1,
    };
    let installed = lamina_wheels::survey(&store, base, &inside)?.installed;
    say(&format!("the image has {} distributions", installed.len()))?;
    let workshop = Workshop {
        store: &store,
        launcher: &helpers.launcher,
        devices: &Lender::new(|_| Err(SandboxError::Lost)),
        fetch: &lamina_fetch::Client::new(cancel.clone()),
        id_map: &map,
        programs: &HostPrograms { uv: Some(uv.into()), python: Some("python3".into()), ..HostPrograms::default() },
        progress: &|_, _, _| (),
        cancel: &cancel,
    };
    let resolution = lamina_wheels::resolve(&request, &target, &installed, false, &workshop)?;
    say(&format!("resolved {} wheels, {} kept", resolution.wheels.len(), resolution.kept.len()))?;

    let work = store.new_work()?;
    let installation = Installation {
        work: &work,
        layers: base,
        python_layers: base,
        installer: request.installer,
        pip: None,
        lock: None,
        request: Some(&request),
    };
    let report = lamina_wheels::install(&resolution, &target, &installation, &workshop)?;
    let (files, downloaded) = (report.files, report.downloaded);
    say(&format!("installed {files} files, {downloaded} wheels downloaded ({} bytes)", report.downloaded_bytes))?;
    for warning in &report.warnings {
        say(warning)?;
    }
    let committed = store.commit(&work, CommitRules::default())?;
    say(&format!(
        "committed views/{} ({} files, {} bytes new)",
        committed.digest, committed.files, committed.bytes_new
    ))?;
    Ok(())
}
