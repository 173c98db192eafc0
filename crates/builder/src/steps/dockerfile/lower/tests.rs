use serde_json::json;

use super::*;

/// Which secrets the steps of a Dockerfile get that has a plain one and a login, by their titles.
fn secrets(text: &str) -> Result<Vec<(String, Vec<String>)>, BuildError> {
    let node: Node = serde_json::from_value(json!({
        "id": "0", "title": "from_dockerfile", "step": {"kind": "from_dockerfile", "name": "Dockerfile", "text": text},
        "secrets": [{"name": "plain", "values": {}}, {"name": "login", "values": {}, "is_login": true}],
    }))
    .unwrap();
    let Step::FromDockerfile(file) = &node.step else { panic!("{node:?}") };
    let nodes = lower(file, &node)?;
    let given = nodes.into_iter().filter(|node| !node.secrets.is_empty());
    Ok(given.map(|node| (node.title, node.secrets.into_iter().map(|secret| secret.name).collect())).collect())
}

#[test]
fn a_login_is_told_to_the_registry_of_the_images_alone() {
    let text = "FROM r.example/a AS one\nFROM r.example/b\nCOPY --from=one /x /x\nCOPY --from=other.example/c /y /y\nRUN true\n";
    let given = secrets(text).unwrap();
    let of = |name: &str| {
        given.iter().filter(|(_, names)| names == &[name]).map(|(title, _)| title.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(of("login"), ["Dockerfile:1 FROM r.example/a AS one", "Dockerfile:2 FROM r.example/b"]);
    assert_eq!(of("plain"), ["Dockerfile:5 RUN true"]);
    assert_eq!(given.len(), 3);
}

#[test]
fn a_login_for_several_registries_is_refused() {
    let error = secrets("FROM python:3.11 AS one\nFROM r.example/b\nCOPY --from=one /x /x\n").unwrap_err().to_string();
    assert!(error.contains("`docker.io`, `r.example`") && error.contains("registry_secret"), "{error}");
}
