//! Parts of the host that sandboxes are given.

use std::io::{Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use lamina_sandbox::{ExitStatus, Helpers, Limits, Mount, Resource, SandboxError, SandboxSpec, Stdio};

use crate::support::{Store, run, script, spec};

crate::tests! {
    a_directory_of_the_host_is_reached,
    a_socket_of_the_host_is_reached,
    a_device_of_the_host_is_reached,
    nothing_is_reached_unasked,
    what_becomes_known_later_is_reached_by_a_further_launcher,
    what_is_missing_is_said,
}

fn resource(name: &str, path: &Path) -> Resource {
    Resource { name: name.into(), path: path.to_str().unwrap().into() }
}

fn host(resource: &str, path: Option<&str>, target: &str, read_only: bool) -> Mount {
    Mount::Host { resource: resource.into(), path: path.map(str::to_owned), target: target.into(), read_only }
}

fn with(spec: SandboxSpec, mounts: &[Mount]) -> SandboxSpec {
    SandboxSpec { mounts: mounts.to_vec(), ..spec }
}

/// A directory of the host that everybody may write to.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for path in ["", "inner", "other"] {
        let path = directory.path().join(path);
        fs_err::create_dir_all(&path).unwrap();
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    fs_err::write(directory.path().join("inner/file"), "of the host").unwrap();
    std::os::unix::fs::symlink("../other", directory.path().join("inner/link")).unwrap();
    directory
}

fn a_directory_of_the_host_is_reached() {
    let (store, outside) = (Store::new(), directory());
    let helpers = store.start_with(&[resource("volume", outside.path())]).unwrap();
    let mounts = [host("volume", None, "/data", false), host("volume", Some("inner"), "/srv/fixed", true)];
    let text = "cat /data/inner/file /srv/fixed/file; echo written > /data/new; echo x > /srv/fixed/x || echo refused";
    let said = run(&helpers, &with(script(text), &mounts)).success();
    assert_eq!(said, "of the hostof the hostrefused\n");
    assert_eq!(fs_err::read_to_string(outside.path().join("new")).unwrap(), "written\n");
    assert!(!outside.path().join("inner/x").exists());
    // Whoever may write in it must not choose what the next sandbox gets.
    for path in ["inner/link", "../", "inner/../../x"] {
        let spec = with(script("true"), &[host("volume", Some(path), "/data", true)]);
        assert!(matches!(spawn(&helpers, &spec), Err(SandboxError::Setup { .. })), "{path}");
    }
}

fn a_socket_of_the_host_is_reached() {
    let (store, outside) = (Store::new(), directory());
    let path = outside.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = [0; 4];
        stream.read_exact(&mut question).unwrap();
        stream.write_all(&question).unwrap();
    });
    let helpers = store.start_with(&[resource("service", &path)]).unwrap();
    let probe = spec(&["/bin/probe", "__probe", "ask", "/run/service"]);
    let said = run(&helpers, &with(probe, &[host("service", None, "/run/service", true)])).success();
    assert_eq!(said, "ping\n");
    service.join().unwrap();
}

fn a_device_of_the_host_is_reached() {
    let store = Store::new();
    let helpers = store.start_with(&[resource("device", Path::new("/dev/zero"))]).unwrap();
    // Its node is the host's and stays as it is, even where the mount is to be writable.
    let text =
        "head -c 2 /dev/accelerator | cat -v; echo x > /dev/accelerator; chmod 600 /dev/accelerator || echo refused";
    let said = run(&helpers, &with(script(text), &[host("device", None, "/dev/accelerator", false)])).success();
    assert_eq!(said, "^@^@refused\n");
}

fn nothing_is_reached_unasked() {
    let (store, outside) = (Store::new(), directory());
    let helpers = store.start_with(&[resource("volume", outside.path())]).unwrap();
    let path = outside.path().display();
    let text = format!("ls -d /resources /store {path} {path}/inner/file; cat /proc/self/mountinfo");
    let said = run(&helpers, &script(&text)).stdout;
    assert!(!said.contains("resources") && !said.contains(&*path.to_string()), "{said}");
    // Only the resource itself, not what is beside it.
    let said = run(&helpers, &with(script("ls -a /data/.. /data"), &[host("volume", Some("inner"), "/data", true)]));
    assert!(!said.stdout.contains("other"), "{}", said.stdout);
}

fn what_becomes_known_later_is_reached_by_a_further_launcher() {
    let store = Store::new();
    let helpers = store.start();
    let devices = [resource("device", Path::new("/dev/zero"))];
    let further = Helpers::further_launcher(&helpers.launcher, None, &store.content(), &store.map, &devices).unwrap();
    let on_further = Helpers { launcher: further.clone(), worker: std::os::unix::net::UnixStream::pair().unwrap().0 };
    let spec = with(script("head -c 2 /dev/accelerator | cat -v"), &[host("device", None, "/dev/accelerator", true)]);
    assert_eq!(run(&on_further, &spec).success(), "^@^@");
    assert!(matches!(spawn(&helpers, &spec), Err(SandboxError::UnknownResource { .. })));
    // Its end leaves the sandboxes and control groups of the other alone.
    let limits = Limits { pids: Some(100), ..Limits::default() };
    let limited = SandboxSpec { limits, ..script("read line; echo $line") };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let output = tempfile::tempfile().unwrap();
    let null = Stdio::null().unwrap();
    let stdio = Stdio { stdin: reader.into(), stdout: output.try_clone().unwrap().into(), ..null };
    let running = helpers.launcher.spawn(&limited, stdio).unwrap();
    further.close();
    assert!(matches!(
        spawn(&on_further, &script("true")),
        Err(SandboxError::Lost | SandboxError::Wire(_) | SandboxError::Io(_))
    ));
    writer.write_all(b"still here\n").unwrap();
    assert_eq!(running.wait().unwrap().status, ExitStatus::Exited(0));
    let mut said = String::new();
    (&output).rewind().and_then(|()| (&output).read_to_string(&mut said)).unwrap();
    assert_eq!(said, "still here\n");
    assert_eq!(run(&helpers, &script("echo on")).success(), "on\n");
}

fn what_is_missing_is_said() {
    let store = Store::new();
    let nowhere = resource("volume", Path::new("/nowhere/at/all"));
    let error = store.start_with(std::slice::from_ref(&nowhere)).unwrap_err();
    assert!(matches!(&error, SandboxError::Resource { name, .. } if name == "volume"), "{error:?}");
    assert!(error.to_string().contains("`volume` cannot be reached at `/nowhere/at/all`: No such file"), "{error}");
    let spec = with(script("true"), &[host("volume", None, "/data", true)]);
    let error = spawn(&store.start(), &spec).unwrap_err();
    assert!(matches!(error, SandboxError::UnknownResource { .. }), "{error:?}");
}

fn spawn(helpers: &Helpers, spec: &SandboxSpec) -> Result<(), SandboxError> {
    helpers.launcher.spawn(spec, crate::support::null_stdio()).map(drop)
}
