//! The key material of every kind of step, as text: whoever changes it rebuilds layers of every user.

use std::fmt::Write as _;

use lamina_ground::Stack;
use lamina_image::{Definition, Digest, FileSet};
use lamina_registry::LocalImage;
use lamina_store::Committed;
use serde_json::json;

use super::*;
use crate::steps::{Declared, lower};

/// Local files whose layer is always the same.
struct OneLayer;

impl LocalFiles for OneLayer {
    fn layer(&self, _files: &FileSet, _below: &Stack<Digest>) -> Result<Committed, BuildError> {
        let digest = Digest::of(b"layer");
        Ok(Committed { digest, content: Digest::of(b"files"), files: 1, bytes: 1, bytes_new: 1 })
    }

    fn context(&self, _context: &lamina_store::Context<'_>) -> Result<Committed, BuildError> {
        self.layer(&FileSet::default(), &Stack::new())
    }

    fn fingerprint(&self, _image: &LocalImage) -> Result<String, BuildError> {
        Ok("fingerprint".to_owned())
    }
}

/// The state that the steps build on.
fn parent() -> Arc<State> {
    let mut state = State { contents: Stack::from_bottom_up([Digest::of(b"base")]), ..State::default() };
    state.config.environment = [("PATH", "/usr/bin"), ("TOKEN_URL", "https://me:word@host/")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    state.config.working_directory = Some("/srv".to_owned());
    Arc::new(state)
}

/// The material of a node's step over `inputs`, one part a line; without what depends on the machine.
fn material(node: &Node, inputs: &[Arc<State>]) -> String {
    let Declared::Layers(kind) = Declared::of(&node.step) else { return "no layer\n".to_owned() };
    let (material, _) = describe(kind, node, inputs, &OneLayer).unwrap();
    let parts = material.canonical();
    let parts = parts.as_object().unwrap().iter().filter(|(name, _)| *name != "architecture");
    parts.fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "  {name}: {value}");
        text
    })
}

#[test]
fn key_material_is_pinned() {
    let directory = tempfile::tempdir().unwrap();
    let requirements = directory.path().join("requirements.txt");
    fs_err::write(directory.path().join("versions.txt"), "numpy<2\n").unwrap();
    fs_err::write(&requirements, "numpy\n-c versions.txt\n").unwrap();
    let project = directory.path();
    let dependencies =
        "[project]\ndependencies = ['c']\noptional-dependencies.more = ['a']\n[dependency-groups]\na = []\nb = []\n";
    fs_err::write(project.join("pyproject.toml"), dependencies).unwrap();
    let files = json!({ "entries": [{ "source": "/local", "target": "/root", "kind": "directory" }] });
    let base = json!({ "kind": "debian_slim", "python_version": "3.11", "local_python": "3.12" });
    let steps = [
        json!({ "kind": "apt_install", "packages": ["git", "curl", "git"] }),
        json!({ "kind": "pip_install", "packages": ["b", "a", "b"] }),
        json!({
            "kind": "uv_pip_install", "packages": ["x @ https://me:word@host/x.whl"], "requirements": [requirements],
            "find_links": "/wheels", "index_url": "https://me:word@host/simple", "extra_index_url": "https://other/",
            "pre": true, "extra_options": "--no-deps", "uv_version": "0.5.0",
        }),
        json!({
            "kind": "pip_install", "requirements": [requirements],
            "pyproject": { "path": project.join("pyproject.toml"), "optional_dependencies": ["more"] },
        }),
        json!({ "kind": "uv_sync", "project": project, "groups": ["b", "a", "b"], "extras": ["more"], "frozen": true }),
        json!({
            "kind": "poetry_install_from_file", "pyproject": project.join("pyproject.toml"), "ignore_lockfile": true,
            "only": ["main"], "poetry_version": "2.1",
        }),
        json!({
            "kind": "pip_install_private_repos", "git_user": "me",
            "repositories": ["github.com/a/b@1", "gitlab.com/c/d"],
        }),
        json!({
            "kind": "micromamba_install", "packages": ["numpy=2", "bwa"], "channels": ["conda-forge", "bioconda"],
            "spec_file": requirements,
        }),
        json!({ "kind": "run_commands", "commands": ["echo one", "curl https://me:word@host/"] }),
        json!({
            "kind": "run_function", "function": "make", "module": { "kind": "script", "name": "app", "path": "/root/app.py" },
            "environment_name": "main", "source": files, "arguments": "gAQp", "timeout": 60, "milli_cpu": 500, "memory": 100,
            "code": {
                "text": "def make(): ...\n", "helpers": { "app.help": "0a" }, "globals": { "LIMIT": "0b" }, "arguments": "0c",
            },
        }),
        json!({ "kind": "copy_files", "files": files }),
        json!({ "kind": "attach_files", "files": files }),
        json!({ "kind": "env", "variables": { "A": "1" } }),
        json!({ "kind": "workdir", "path": "sub" }),
    ];
    let mut nodes = vec![json!({ "id": "base", "step": base, "title": "" })];
    for (index, step) in steps.iter().enumerate() {
        nodes.push(json!({ "id": index.to_string(), "inputs": ["base"], "step": step, "title": "" }));
    }
    let conda = json!({ "kind": "micromamba", "python_version": "3.12", "local_python": "3.9" });
    nodes.push(json!({ "id": "conda", "step": conda, "title": "" }));
    for reference in ["app:v1", "oci-archive:/a.tar"] {
        let step = json!({ "kind": "from_registry", "reference": reference });
        nodes.push(json!({ "id": reference, "step": step, "title": "" }));
    }
    nodes.push(json!({
        "id": "settings", "inputs": ["base"], "step": steps[0], "title": "not in the key", "force_build": true,
        "environment": { "A": "1", "URL": "https://me:word@host/" },
        "secrets": [{ "name": "not in the key", "values": { "TOKEN": "hunter2" } }],
    }));
    let definition: Definition = serde_json::from_value(json!(nodes)).unwrap();
    let graph = lower(&definition).unwrap();
    let mut table = String::new();
    for place in 0..graph.len() {
        let (node, inputs) = graph.step(place);
        let inputs: Vec<_> = inputs.iter().map(|_| parent()).collect();
        let kind = serde_json::to_value(&node.step).unwrap()["kind"].clone();
        let _ = write!(table, "{kind}\n{}", material(node, &inputs));
    }
    insta::assert_snapshot!(table);
}

#[test]
fn further_inputs_enter_the_key() {
    let text = r#"[{"id":"0","step":{"kind":"debian_slim","python_version":"3.11","local_python":"3.12"},"title":""},
        {"id":"1","inputs":["0"],"step":{"kind":"run_commands","commands":["true"]},"title":""}]"#;
    let graph = lower(&serde_json::from_str(text).unwrap()).unwrap();
    let (node, _) = graph.step(1);
    let one = material(node, &[parent()]);
    let two = material(node, &[parent(), parent()]);
    assert_eq!(two.lines().filter(|line| !one.contains(line)).count(), 1);
    assert!(two.contains("  inputs: ["));
}

/// The state after a step of which nothing but its key is wanted: a layer changes no setting here.
fn after(node: &Node, inputs: &[Arc<State>]) -> Arc<State> {
    let mut state = State::on(inputs);
    match Declared::of(&node.step) {
        Declared::Metadata(kind) => kind.apply(node, &mut state).unwrap(),
        _ => state.contents.put(Digest::of(node.title.as_bytes())),
    }
    Arc::new(state)
}

#[test]
fn key_material_of_dockerfiles_is_pinned() {
    let text = r#"FROM scratch AS build
ARG VERSION=1
RUN echo one $VERSION
FROM scratch
ARG GIVEN
ENV A=${GIVEN}x
LABEL a=b
EXPOSE 80
VOLUME /data
CMD ["x"]
ENTRYPOINT ["y"]
STOPSIGNAL 9
HEALTHCHECK NONE
COPY --chown=1:2 --chmod=u+x --exclude=*.pyc --parents --link $A b /into/
COPY --from=build /a /b
COPY <<ONE <<'TWO' /documents/
$A
ONE
$A
TWO
ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 https://me:word@host/x.tar /
ADD --unpack=true x.tgz /
WORKDIR $A
USER app
SHELL ["/bin/bash", "-c"]
RUN --network=none --mount=type=cache,target=/c --mount=source=s,target=/s <<EOF
text
EOF
RUN ["exec", "$A"]
RUN --mount=type=bind,from=build,target=/b --mount=type=secret,id=T true
"#;
    let step = json!({
        "kind": "from_dockerfile", "name": "Dockerfile", "text": text, "build_args": { "GIVEN": "g" },
        "context": { "source": "/local" },
    });
    let node = json!({
        "id": "0", "step": step, "title": "from_dockerfile(\"Dockerfile\")", "environment": { "E": "1" },
        "secrets": [{ "name": "s", "values": { "T": "hunter2" } }],
    });
    let graph = lower(&serde_json::from_value(json!([node])).unwrap()).unwrap();
    let (mut states, mut table) = (Vec::new(), String::new());
    for place in 0..graph.len() {
        let (node, inputs) = graph.step(place);
        let inputs: Vec<Arc<State>> = inputs.iter().map(|place| Arc::clone(&states[*place])).collect();
        let _ = write!(table, "{}\n{}", node.title, material(node, &inputs));
        states.push(after(node, &inputs));
    }
    insta::assert_snapshot!(table);
}

#[test]
fn gpus_enter_the_key_of_the_step_that_asks_for_them() {
    let text = r#"[{"id":"0","step":{"kind":"debian_slim","python_version":"3.11","local_python":"3.12"},"title":""},
        {"id":"1","inputs":["0"],"title":"","gpu":["h100:2","any"],
         "step":{"kind":"pip_install_private_repos","repositories":["github.com/a/b"],"git_user":"me"}}]"#;
    let graph = lower(&serde_json::from_str(text).unwrap()).unwrap();
    let materials: Vec<String> = (1..graph.len()).map(|place| material(graph.step(place).0, &[parent()])).collect();
    let [git, repositories] = &materials[..] else { panic!("{materials:?}") };
    assert!(!git.contains("gpu"), "{git}");
    assert!(repositories.contains("  gpu: [\"H100:2\",\"ANY\"]\n"), "{repositories}");
}
