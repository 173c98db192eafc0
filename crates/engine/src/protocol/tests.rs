//! Requests as Python writes them.

use super::*;

fn read(text: &str) -> Request {
    Request::decode(text.as_bytes()).unwrap()
}

#[test]
fn hello_is_pinned() {
    let text = r#"{"type":"hello","protocol":3,"package":"0.1.0","python":"3.11.7","uv":"/bin/uv","cwd":"/home/me",
                   "python_program":"/usr/bin/python3","output":true,"package_directory":"/lib/modal",
                   "cloudpickle_directory":"/lib/cloudpickle"}"#;
    let Request::Hello(hello) = read(text) else { panic!() };
    let expected = Hello {
        protocol: 3,
        package: "0.1.0".into(),
        python_program: Some("/usr/bin/python3".into()),
        uv: Some("/bin/uv".into()),
        output: true,
        package_directory: "/lib/modal".into(),
        cloudpickle_directory: Some("/lib/cloudpickle".into()),
    };
    assert_eq!(hello, expected);
}

#[test]
fn app_start_is_pinned() {
    let text = r#"{"type":"app.start","request":1,"app":{"name":"demo","environment":"staging"},
        "images":[{"id":"0","inputs":[],"step":{"kind":"debian_slim","python_version":"3.11","local_python":"3.12"},
                   "force_build":false,"title":"debian_slim(python_version=\"3.11\")","secrets":[]}],
        "functions":[{"name":"describe","image":"0","module":{"kind":"script","name":"app","path":"/root/app.py"},
            "source":{"entries":[{"source":"/w/app.py","target":"/root/app.py","kind":"file","ignore":null}]},
            "mounts":{"entries":[{"source":"/w/src","target":"/root/src","kind":"directory",
                                  "ignore":{"patterns":["**/*.pyc"],"invert":true}}]},
            "environment":{"A":"1"},"secrets":[{"name":"s","values":{"TOKEN":"hunter2"}}],
            "timeout":300,"cpu":0.5,"memory":[128,256],"is_generator":false,"max_containers":64,
            "retries":{"max_retries":3,"backoff_coefficient":2.0,"initial_delay":0.5,"max_delay":60}}],
        "options":{"force_build":true,"ignore_cache":false}}"#;
    let Request::Start(app) = read(text) else { panic!() };
    assert_eq!((app.request, app.images.nodes.len()), (1, 1));
    assert_eq!(app.app.environment, "staging");
    assert_eq!(app.options, OptionsRequest { force_build: true, ignore_cache: false });
    let function = &app.functions[0];
    assert_eq!(function.module, Module::Script { name: "app".into(), path: "/root/app.py".into(), qualname: None });
    assert_eq!((function.source.entries.len(), function.mounts.entries.len()), (1, 1));
    assert_eq!(function.secrets[0].values["TOKEN"], "hunter2");
    assert_eq!((function.cpu.unwrap().limit(), function.memory.unwrap().limit()), (0.5, 256.0));
    let retries = RetriesRequest { max_retries: 3, backoff_coefficient: 2.0, initial_delay: 0.5, max_delay: 60.0 };
    assert_eq!((function.retries, function.max_containers), (Some(retries), Some(64)));
    assert!(!format!("{app:?}").contains("hunter2"), "secrets stay out of debug output");
}

#[test]
fn the_other_requests_are_pinned() {
    let Request::Describe(app) = read(r#"{"type":"app.describe","request":1,"images":[],"functions":[],"select":"f"}"#)
    else {
        panic!()
    };
    assert_eq!(app.select.as_deref(), Some("f"));
    let call = read(r#"{"call":7,"type":"call","function":"f"}"#);
    assert!(matches!(call, Request::Call(call) if call.call == 7), "in any order");
    let call = read(r#"{"type":"call","call":7,"function":"f"}"#);
    let plain = CallRequest {
        call: 7,
        function: "f".into(),
        method: None,
        variant: None,
        map: None,
        index: None,
        part_of: None,
        identify: false,
        spawned: false,
    };
    assert!(matches!(call, Request::Call(call) if call == plain));
    let call = read(r#"{"type":"call","call":7,"function":"f","identify":true,"spawned":true}"#);
    let spawned = CallRequest { identify: true, spawned: true, ..plain };
    assert!(matches!(call, Request::Call(call) if call == spawned));
    let attach = read(r#"{"type":"app.attach","request":1,"app":"web"}"#);
    assert!(matches!(attach, Request::Attach(AttachRequest { request: 1, app, .. }) if app == "web"));
    assert!(matches!(read(r#"{"type":"app.leave","request":2}"#), Request::Leave { request: 2 }));
    let stop = read(r#"{"type":"app.stop","request":2,"app":"ap-1"}"#);
    assert!(matches!(stop, Request::Stop { request: 2, app: Some(app) } if app == "ap-1"));
    assert!(matches!(read(r#"{"type":"cancel","call":7}"#), Request::Cancel { call: 7, terminate: false }));
    assert!(matches!(read(r#"{"type":"more","call":7,"count":8}"#), Request::More { call: 7, count: 8 }));
    assert!(matches!(read(r#"{"type":"app.stop","request":2}"#), Request::Stop { request: 2, app: None }));
    for rubbish in ["", "[]", "{}", r#"{"type":"exec"}"#, r#"{"type":"call","call":"7","function":"f"}"#] {
        assert!(Request::decode(rubbish.as_bytes()).is_err(), "{rubbish}");
    }
}

#[test]
fn answers_are_pinned() {
    let failure = Failure {
        error: ErrorClass::ImageBuildError,
        message: "no".into(),
        hint: None,
        image_id: Some("im-1".into()),
        log: None,
        shown: false,
    };
    let images = BTreeMap::from([("3".to_owned(), "im-1".to_owned())]);
    let functions = BTreeMap::from([("f".to_owned(), "fu-1".to_owned())]);
    let attached =
        || BTreeMap::from([("f", AttachedFunction { id: "fu-1".to_owned(), generator: false, class: None })]);
    let cases = [
        (Answer::Welcome { protocol: 3, engine: "0.1.0" }, r#"{"type":"welcome","protocol":3,"engine":"0.1.0"}"#),
        (
            Answer::Started { request: 1, app_id: "ap-1", images: &images, functions: &functions },
            r#"{"type":"app.started","request":1,"app_id":"ap-1","images":{"3":"im-1"},"functions":{"f":"fu-1"}}"#,
        ),
        (
            Answer::Described { request: 1, function: "f", image_id: "im-1" },
            r#"{"type":"app.described","request":1,"function":"f","image_id":"im-1"}"#,
        ),
        (Answer::Stopped { request: 2 }, r#"{"type":"app.stopped","request":2}"#),
        (
            Answer::Error { request: Some(1), failure: &failure },
            r#"{"type":"error","request":1,"error":"ImageBuildError","message":"no","hint":null,"image_id":"im-1"}"#,
        ),
        (
            Answer::Error { request: None, failure: &failure },
            r#"{"type":"error","error":"ImageBuildError","message":"no","hint":null,"image_id":"im-1"}"#,
        ),
        (
            Answer::Attached { request: 1, app_id: "ap-1", functions: attached(), elsewhere: false },
            r#"{"type":"app.attached","request":1,"app_id":"ap-1","functions":{"f":{"id":"fu-1"}}}"#,
        ),
        (
            Answer::Attached { request: 1, app_id: "ap-1", functions: BTreeMap::new(), elsewhere: true },
            r#"{"type":"app.attached","request":1,"app_id":"ap-1","functions":{},"elsewhere":true}"#,
        ),
        (Answer::Left { request: 2 }, r#"{"type":"app.left","request":2}"#),
        (Answer::Ended { app_id: "ap-1" }, r#"{"type":"app.ended","app_id":"ap-1"}"#),
    ];
    for (answer, text) in cases {
        assert_eq!(String::from_utf8(answer.encode()).unwrap(), text);
    }
}
