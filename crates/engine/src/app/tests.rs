//! Whether what a program declares holds together.

use super::*;

fn app(functions: &str, select: Option<&str>) -> AppRequest {
    let text = format!(
        r#"{{"request":1,"images":[{{"id":"0","step":{{"kind":"debian_slim","local_python":"3.11"}},"title":"debian_slim()"}}],
             "functions":{functions},"select":{}}}"#,
        serde_json::to_string(&select).unwrap()
    );
    serde_json::from_str(&text).unwrap()
}

fn function(name: &str, more: &str) -> String {
    format!(r#"{{"name":"{name}","image":"0","module":{{"kind":"module","name":"m"}},"timeout":300{more}}}"#)
}

#[test]
fn the_selected_function_is_the_named_one_or_the_only_one() {
    let both = format!("[{},{}]", function("f", ""), function("g", ""));
    let one = format!("[{}]", function("f", ""));
    assert_eq!(select(&app(&both, Some("g"))).unwrap().name, "g");
    assert_eq!(select(&app(&one, None)).unwrap().name, "f");
    let message = |functions: &str, name| select(&app(functions, name)).unwrap_err().message;
    assert_eq!(message(&both, None), "the app has several functions: name one of `f`, `g`");
    assert_eq!(message(&both, Some("h")), "the app has no function `h`: it has `f`, `g`");
    assert_eq!(message("[]", None), "the app has no functions");
}

#[test]
fn apps_that_do_not_hold_together_are_refused() {
    let refused = |functions: &str| check(&app(functions, None)).unwrap_err().message;
    assert_eq!(
        refused(&format!("[{},{}]", function("f", ""), function("f", ""))),
        "the app has two functions named `f`: rename one of them"
    );
    let cases = [
        (r#","memory":-1"#, "`memory=-1` of function `f` is no amount: give a positive number"),
        (r#","cpu":[1,0]"#, "`cpu=0` of function `f` is no amount: give a positive number"),
        (r#","max_containers":0"#, "`max_containers=0` of function `f` lets nothing run: give a positive number"),
        (
            r#","retries":{"max_retries":1,"backoff_coefficient":1,"initial_delay":-1,"max_delay":60}"#,
            "`initial_delay=-1` in the retries of function `f` is no duration: give a number of seconds",
        ),
        (
            r#","retries":{"max_retries":1,"backoff_coefficient":-2,"initial_delay":1,"max_delay":60}"#,
            "`backoff_coefficient=-2` in the retries of function `f` is no factor: give a number from 1",
        ),
        (
            r#","is_generator":true,"retries":{"max_retries":1,"backoff_coefficient":1,"initial_delay":1,"max_delay":60}"#,
            "function `f` is a generator, which cannot run again: leave its `retries` out",
        ),
    ];
    for (more, message) in cases {
        assert_eq!(refused(&format!("[{}]", function("f", more))), message);
    }
    let late = function("f", "").replace("300", "0");
    assert!(refused(&format!("[{late}]")).starts_with("`timeout=0` of function `f`"));
    assert!(check(&app(&format!("[{}]", function("f", r#","cpu":0.5,"memory":[128,256]"#)), None)).is_ok());
}

#[test]
fn memory_is_counted_in_mebibytes() {
    assert_eq!(mebibytes(512.0), 512 << 20);
    assert_eq!(mebibytes(1e300), u64::MAX);
}
