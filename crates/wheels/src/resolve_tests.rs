//! A stand-in for the resolver records what it is asked and answers from a fixture.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lamina_events::CancelToken;
use lamina_ground::Hint;

use super::*;
use crate::request::RequirementsFile;
use crate::tests::target;

const LOCK: &str = r#"lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "demo"
version = "1.0"
wheels = [{ url = "https://files.invalid/demo-1.0-py3-none-any.whl", size = 5, hashes = { sha256 = "b4ec55f4195e3eb5d7abd1bf7e061763e864dd4954231fb8539a0ef8bb8260e5" } }]

[[packages]]
name = "helper"
version = "2.0"
wheels = [{ url = "https://files.invalid/helper-2.0-py3-none-any.whl", size = 5, hashes = { sha256 = "a4ec55f4195e3eb5d7abd1bf7e061763e864dd4954231fb8539a0ef8bb8260e5" } }]
"#;

/// A directory with an executable `uv` that does what `script` says.
struct Stand {
    directory: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// A child that another thread is just starting would keep a fresh script open for writing: it could not be executed.
static ALONE: Mutex<()> = Mutex::new(());

impl Stand {
    fn new(script: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("lock"), LOCK).unwrap();
        let uv = directory.path().join("uv");
        fs::write(&uv, format!("#!/bin/sh\nhere='{}'\n{script}\n", directory.path().display())).unwrap();
        fs::set_permissions(&uv, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory, _alone: alone }
    }

    /// One that answers with the lock and keeps its arguments.
    fn answering() -> Self {
        Self::new(
            r#"case "$*" in *--emit-index-url*) echo "--index-url https://index.invalid/simple"; exit;; esac
               echo "$@" > "$here/arguments"
               echo "$UV_INDEX_URL" "$UV_EXTRA_INDEX_URL" "$UV_FIND_LINKS" > "$here/addresses"
               stat -c %a . > "$here/mode"
               cp pylock.toml "$here/preferences" 2>/dev/null
               cp -r requirements-0 packages.txt "$here" 2>/dev/null
               while [ "$1" != --output-file ]; do shift; done; cp "$here/lock" "$2""#,
        )
    }

    fn resolve(&self, request: &Request, installed: &[Installed]) -> Result<Resolution, WheelError> {
        let uv: PathBuf = self.directory.path().join("uv");
        // The only place where the script may write.
        let cache = self.directory.path().to_owned();
        let program = Program { uv: &uv, cache: &cache, cancel: &CancelToken::new() };
        let resolver = Resolver { program, python: Path::new("python3"), refresh: false };
        ask(request, &target(), installed, &resolver)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

#[test]
fn the_built_in_index_is_asked_for_once() {
    let stand = Stand::new(
        r#"case "$*" in *--emit-index-url*) echo asked >> "$here/asked"; echo "--index-url https://index.invalid/simple"; exit;; esac
           cat uv.toml > "$here/configuration"
           while [ "$1" != --output-file ]; do shift; done; cp "$here/lock" "$2""#,
    );
    for _ in 0..2 {
        stand.resolve(&request(&["a"]), &[]).unwrap();
        assert!(stand.read("configuration").contains("https://index.invalid/simple"));
    }
    assert_eq!(stand.read("asked").lines().count(), 1);
    // Another program may have another one.
    let uv = stand.directory.path().join("uv");
    let changed = fs::read_to_string(&uv).unwrap().replace("index.invalid", "other.invalid");
    fs::write(&uv, changed).unwrap();
    stand.resolve(&request(&["a"]), &[]).unwrap();
    assert!(stand.read("configuration").contains("https://other.invalid/simple"));
}

#[test]
fn the_resolver_changes_nothing_of_the_user() {
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("file");
    let stand = Stand::new(&format!(
        r#"echo x > '{}' || echo refused > "$here/outcome"
           echo x > "$TMPDIR/temporary" || exit 1
           while [ "$1" != --output-file ]; do shift; done; cp "$here/lock" "$2""#,
        file.display()
    ));
    stand.resolve(&request(&["a"]), &[]).unwrap();
    if lamina_system::landlock_version().is_ok_and(|version| version >= 2) {
        assert_eq!(stand.read("outcome"), "refused\n");
        assert!(!file.exists());
    }
}

fn request(packages: &[&str]) -> Request {
    Request { packages: packages.iter().map(|&package| package.to_owned()).collect(), ..Request::default() }
}

fn has(name: &str, version: &str, site: &str) -> Installed {
    Installed { name: name.to_owned(), version: version.to_owned(), site: site.to_owned() }
}

#[test]
fn the_resolver_is_asked_about_the_image() {
    let stand = Stand::answering();
    let mut request = request(&["demo>=1"]);
    request.index_url = Some("https://me:word@own.invalid/simple".to_owned());
    request.extra_index_url = Some("https://me:word@more.invalid/simple".to_owned());
    request.find_links = Some("https://me:word@links.invalid/".to_owned());
    request.pre = true;
    request.requirements =
        vec![RequirementsFile { name: "deps/requirements.txt".to_owned(), contents: "helper\n".to_owned() }];
    let resolution = stand.resolve(&request, &[]).unwrap();
    let requested: Vec<_> = resolution.wheels.iter().map(|wheel| (wheel.name.as_str(), wheel.requested)).collect();
    assert_eq!(requested, [("demo", true), ("helper", true)]);
    let arguments = stand.read("arguments");
    for expected in [
        "pip compile",
        "--build --build-isolation --python",
        "--python-version 3.11 --python-platform x86_64-manylinux_2_36",
        "--prerelease allow",
        "packages.txt requirements-0/requirements.txt",
    ] {
        assert!(arguments.contains(expected), "{expected} is not in {arguments}");
    }
    assert!(!arguments.contains("word"), "every user can read {arguments}");
    assert_eq!(stand.read("mode"), "700\n");
    let addresses =
        "https://me:word@own.invalid/simple https://me:word@more.invalid/simple https://me:word@links.invalid/";
    assert!(stand.read("addresses").starts_with(addresses));
    assert_eq!(stand.read("requirements-0/requirements.txt"), "helper\n");
}

#[test]
fn what_the_image_has_stays() {
    let stand = Stand::answering();
    let site = &target().site_packages;
    let resolution = stand.resolve(&request(&["demo"]), &[has("helper", "2.0", site)]).unwrap();
    assert_eq!(resolution.kept, ["helper==2.0"]);
    assert_eq!(resolution.wheels.len(), 1);
    assert!(stand.read("preferences").contains("name = \"helper\"\nversion = \"2.0\""));

    let replaced = stand.resolve(&request(&["demo"]), &[has("helper", "1.0", site)]).unwrap_err();
    assert!(
        matches!(&replaced, WheelError::NeedsSandbox { reason, .. } if reason.contains("`helper` 1.0")),
        "{replaced}"
    );

    let shadowed = stand.resolve(&request(&["demo"]), &[has("helper", "1.0", "/usr/lib/python3/dist-packages")]);
    assert_eq!(shadowed.unwrap().wheels.len(), 2);
}

#[test]
fn uv_looks_at_its_own_site_alone_and_calls_everything_requested() {
    let stand = Stand::answering();
    let named = |installer| {
        let request = Request { installer, ..request(&["demo"]) };
        let resolution = stand.resolve(&request, &[has("helper", "2.0", "/usr/lib/python3/dist-packages")]).unwrap();
        let wheels = resolution.wheels.iter().map(|wheel| (wheel.name.clone(), wheel.requested)).collect::<Vec<_>>();
        (wheels, resolution.kept)
    };
    let (demo, helper) = (("demo".to_owned(), true), ("helper".to_owned(), true));
    assert_eq!(named(Installer::Pip), (vec![demo.clone()], vec!["helper==2.0".to_owned()]));
    assert_eq!(named(Installer::Uv), (vec![demo, helper], Vec::new()));
}

#[test]
fn sources_do_not_reach_the_resolver() {
    let stand = Stand::new("touch \"$here/ran\"; exit 1");
    let mut links = request(&["demo"]);
    links.find_links = Some("/wheels".to_owned());
    let mut options = request(&["demo"]);
    options.extra_options = "--no-build-isolation".to_owned();
    let mut file = request(&[]);
    file.requirements = vec![RequirementsFile { name: "r.txt".to_owned(), contents: "-e .\n".to_owned() }];
    for request in [request(&["git+https://git.invalid/x"]), request(&["./demo"]), links, options, file] {
        let error = stand.resolve(&request, &[]).unwrap_err();
        assert!(matches!(error, WheelError::NeedsSandbox { .. }), "{error}");
    }
    assert!(!stand.directory.path().join("ran").exists());
}

#[test]
fn failures_keep_the_explanation_and_have_a_hint() {
    for (message, hint) in [
        ("Because demo was not found in the package registry and you require demo, …", "spelling"),
        ("Because there is no version of demo==9 and you require demo==9, …", "versions that exist"),
        ("Couldn't parse requirement in `packages.txt` at position 0", "write requirements as"),
        ("Request failed after 3 retries: dns error", "network connection"),
    ] {
        let stand = Stand::new(&format!("cat >&2 <<'END'\nerror: {message}\nEND\nexit 1"));
        let error = stand.resolve(&request(&["demo"]), &[]).unwrap_err();
        assert_eq!(error.to_string(), message);
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{message}: {:?}", error.hint());
    }
    let stand = Stand::new("echo 'error: Because demo==1 has no usable wheels' >&2; exit 1");
    assert!(matches!(stand.resolve(&request(&["demo"]), &[]), Err(WheelError::NeedsSandbox { .. })));
}

#[test]
fn what_the_resolver_would_build_is_for_the_sandbox() {
    let stand = Stand::new("printf 'error: Failed to build `demo==2`\\n  cause: Permission denied\\n' >&2; exit 1");
    let error = stand.resolve(&request(&["demo"]), &[]).unwrap_err();
    assert!(
        matches!(&error, WheelError::NeedsSandbox { reason, builds: true } if reason == "`demo==2` has to be built"),
        "{error}"
    );
}

#[test]
fn pip_has_the_last_word_on_versions_that_were_withdrawn() {
    let stand =
        Stand::new("echo 'error: Because demo==2.0 was yanked (reason: bad) and you require demo>1, …' >&2; exit 1");
    let resolve = |installer| stand.resolve(&Request { installer, ..request(&["demo>1"]) }, &[]);
    assert!(matches!(resolve(Installer::Pip), Err(WheelError::NeedsSandbox { builds: false, .. })));
    assert!(matches!(resolve(Installer::Uv), Err(WheelError::Resolution { .. })));
}

#[test]
fn a_missing_resolver_is_named() {
    let stand = Stand::new("");
    fs::remove_file(stand.directory.path().join("uv")).unwrap();
    let error = stand.resolve(&request(&["demo"]), &[]).unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("pip install uv")), "{error}");
}

#[test]
fn files_with_other_digests_than_the_users_are_for_the_installer() {
    let demo = "b4ec55f4195e3eb5d7abd1bf7e061763e864dd4954231fb8539a0ef8bb8260e5";
    let (helper, other) = (demo.replacen('b', "a", 1), "a4".repeat(32));
    let both = format!("demo==1.0 --hash=sha256:{demo}\nhelper==2.0 --hash=sha256:{helper}\n");
    for (contents, fast) in [
        (both.replace(" --", " \\\n    --"), "pip uv"),
        (both.replace("demo==1.0", &format!("demo==1.0 --hash=sha256:{other}")), "pip uv"),
        (format!("demo==1.0 --hash=sha256:{other}\n"), ""),
        (both.replace(&helper, &other), ""),
        // To pip, one digest says that everything has to have one.
        (format!("demo==1.0 --hash=sha256:{demo}\n"), "uv"),
        (format!("demo==1.0 --hash=sha256:{demo}\nhelper\n"), "uv"),
        (format!("{both}plain\n"), "uv"),
        ("--require-hashes\ndemo==1.0\n".to_owned(), ""),
    ] {
        for (installer, name) in [(Installer::Pip, "pip"), (Installer::Uv, "uv")] {
            let file = RequirementsFile { name: "all.txt".to_owned(), contents: contents.clone() };
            let request = Request { requirements: vec![file], installer, ..Request::default() };
            let result = Stand::answering().resolve(&request, &[]);
            let is_fast = fast.contains(name);
            assert_eq!(result.is_ok(), is_fast, "{name}: {contents}: {result:?}");
            assert!(is_fast || matches!(result, Err(WheelError::NeedsSandbox { .. })), "{name}: {contents}");
        }
    }
}

#[test]
fn several_addresses_in_one_are_for_the_installer() {
    let (two, stand) = (Some("https://a.invalid https://b.invalid".to_owned()), Stand::answering());
    for request in [
        Request { index_url: two.clone(), ..request(&["demo"]) },
        Request { extra_index_url: two.clone(), ..request(&["demo"]) },
        Request { find_links: two.clone(), ..request(&["demo"]) },
    ] {
        assert!(matches!(stand.resolve(&request, &[]), Err(WheelError::NeedsSandbox { .. })), "{request:?}");
    }
}

#[test]
fn constraints_are_handed_over() {
    let stand = Stand::answering();
    let constrained = Request { constraints: "helper<3\n".to_owned(), ..request(&["demo"]) };
    stand.resolve(&constrained, &[]).unwrap();
    assert!(stand.read("arguments").contains("--constraint constraints.txt"));
    let with_digest = Request { constraints: "demo==1.0 --hash=sha256:00\n".to_owned(), ..request(&["demo"]) };
    assert!(matches!(stand.resolve(&with_digest, &[]), Err(WheelError::NeedsSandbox { .. })));
}

#[test]
fn a_resolver_that_takes_too_much_is_ended() {
    let error = Stand::new("kill -ABRT $$").resolve(&request(&["demo"]), &[]).unwrap_err();
    assert!(error.to_string().contains("more than 3072 MiB of memory"), "{error}");
}

#[test]
fn what_is_recorded_of_the_resolver_has_no_credentials() {
    let mut command = Command::new("uv");
    command.args(["pip", "compile"]).env("UV_INDEX_URL", "https://me:hunter2@index.example/simple").env_remove("HOME");
    let text = redacted(&command);
    assert!(
        text.starts_with("UV_INDEX_URL=https://") && text.ends_with("@index.example/simple uv pip compile"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn the_resolver_learns_of_a_python_that_runs_nothing_else() {
    let stand = Stand::answering();
    stand.resolve(&request(&["demo"]), &[]).unwrap();
    let python = stand.directory.path().join("describing-python");
    let ask = |arguments: &[&str]| {
        let output = Command::new(&python).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let code = "import sys; print(sys.executable, sys._base_executable, sys.version_info[0])";
    assert_eq!(ask(&["-I", "-B", "-c", code]), "/dev/null /dev/null 3\n");
    assert_eq!(ask(&["-c", code]), "");
}
