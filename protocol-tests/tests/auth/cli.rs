//! `floe token`, with and without a server, and what the first token changes.

use protocol_tests::{Floe, refused_start};
use serde_json::Value;

use crate::{floe, local_token};

fn is_token(text: &str) -> bool {
    let parts: Vec<&str> = text.split('_').collect();
    matches!(parts[..], ["floe", id, secret] if id.len() == 10 && secret.len() == 40)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_token_is_made_without_a_server_and_is_in_force_from_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let place = data.to_str().unwrap();
    let made = floe(&["token", "create", "admin", "--data-dir", place], None);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let admin = made.out.strip_suffix('\n').unwrap();
    assert!(is_token(admin), "the token alone: {:?}", made.out);
    assert_eq!(made.err, "");
    let more = ["--allow", "read:topic:*", "--expires", "30d", "--rate-requests", "5"];
    let second = local_token(&data, "second", &[&more[..], &["--rate-bytes", "2MiB"]].concat());
    for (flag, value) in [("--rate-bytes", "much"), ("--rate-requests", "1000001")] {
        let wish = ["token", "create", "third", "--data-dir", place, flag, value];
        let refused = floe(&wish, None);
        assert!(refused.code != Some(0) && !refused.err.is_empty(), "{flag}: {}", refused.err);
    }
    let listed = floe(&["token", "list", "--data-dir", place, "--json"], None);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed["tokens"][1]["name"], "second");
    let time = listed["tokens"][1]["expires_ms"].as_i64().unwrap()
        - listed["tokens"][1]["created_ms"].as_i64().unwrap();
    assert_eq!(time, 30 * 86_400_000);
    let of =
        |at: usize| (&listed["tokens"][at]["rate_requests"], &listed["tokens"][at]["rate_bytes"]);
    assert_eq!(of(0), (&Value::Null, &Value::Null));
    assert_eq!(of(1), (&Value::from(5), &Value::from(2 << 20)));

    // Even when the state is lost: tokens are frames of the log.
    std::fs::remove_dir_all(data.join("state")).unwrap();
    let server = Floe::start_in(&data, &[]).await;
    server.printed("every request needs a token").await;
    let url = server.url("");
    let list = |token| floe(&["topic", "list", "--url", &url], token);
    let without = list(None);
    assert_eq!(without.code, Some(1));
    assert!(without.err.contains("FLOE_TOKEN"), "{}", without.err);
    assert_eq!(list(Some(admin)).code, Some(0));
    assert_eq!(list(Some(&second)).code, Some(0));
    let busy = floe(&["token", "list", "--data-dir", place], None);
    assert_eq!(busy.code, Some(1));
    assert!(busy.err.contains("in use") && busy.err.contains("--url"), "{}", busy.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_running_server_tokens_are_made_listed_and_revoked() {
    let server = Floe::start(&[]).await;
    server.printed("floe token create admin").await;
    let url = server.url("");
    let run = |arguments: &[&str], token: Option<&str>| {
        floe(&[&["token"], arguments, &["--url", &url]].concat(), token)
    };
    let made = run(&["create", "admin"], None);
    assert_eq!(made.code, Some(0), "{}", made.err);
    assert!(made.err.contains("from now on every request needs a token"), "{}", made.err);
    let admin = made.out.trim_end();
    assert!(is_token(admin));
    assert_eq!(run(&["list"], None).code, Some(1));
    let made = run(&["create", "shop", "--allow", "write:topic:orders-*"], Some(admin));
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
    let shop = made.out.trim_end().to_owned();
    let listed = run(&["list"], Some(admin)).out;
    assert!(listed.contains("write:topic:orders-*") && listed.contains("active"), "{listed}");
    assert!(!listed.contains(&shop) && !listed.contains(shop.rsplit('_').next().unwrap()));
    // Who may write a topic may not hand out rights.
    let refused = run(&["create", "more"], Some(&shop));
    assert!(refused.err.contains("alter:cluster"), "{}", refused.err);
    let refused = run(&["create", "shop"], Some(admin));
    assert!(refused.code == Some(1) && refused.err.contains("exists"), "{}", refused.err);
    assert_eq!(run(&["revoke", "shop"], Some(admin)).code, Some(0));
    let refused = run(&["list"], Some(&shop));
    assert!(refused.err.contains("revoked"), "{}", refused.err);
    assert_eq!(run(&["revoke", "nobody"], Some(admin)).code, Some(1));
    assert!(run(&["list"], Some(admin)).out.contains("revoked"));
    assert!(!server.log().contains(admin) && !server.log().contains(&shop), "no secret in the log");
}

#[test]
fn wrong_wishes_are_refused_with_what_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let place = data.to_str().unwrap();
    for (more, code, named) in [
        (&["a b"][..], 1, "letters, digits"),
        (&["a", "--allow", "fly:topic:x"], 1, "OPERATION:RESOURCE"),
        (&["a", "--allow", "read:topic:a*b"], 1, "only stand at the end"),
        (&["a", "--expires", "30"], 2, "needs a unit"),
        (&["a", "--expires", "soon"], 2, "duration"),
        (&["a", "--expires", "0s"], 1, "longer than nothing"),
    ] {
        let ran = floe(&[&["token", "create", "--data-dir", place], more].concat(), None);
        assert_eq!(ran.code, Some(code), "{more:?}: {}", ran.err);
        assert!(ran.err.contains(named) && ran.out.is_empty(), "{more:?}: {}", ran.err);
    }
    let help = floe(&["token", "create", "--help"], Some("floe_secret")).out;
    assert!(help.contains("write:topic:orders-*") && help.contains("read, write, create"));
    assert!(!help.contains("floe_secret"), "the help shows no token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_machines_may_come_once_there_is_a_token() {
    let everywhere = ["--http-listen", "0.0.0.0:0", "--kafka-listen", "0.0.0.0:0"];
    let (code, text) = refused_start(&everywhere);
    assert_eq!(code, Some(2), "{text}");
    for named in ["floe token create admin --data-dir", "--auth-anonymous allow", "127.0.0.1"] {
        assert!(text.contains(named), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let admin = local_token(&data, "admin", &[]);
    let port = protocol_tests::free_port();
    let address = format!("0.0.0.0:{port}");
    let server = Floe::start_in(&data, &["--kafka-listen", &address]).await;
    let client = reqwest::Client::new();
    // A proxy in front tells the name that it was asked for.
    let asked = client.get(server.url("/api/v1/topics")).header("host", "floe.example.com");
    let status = asked.try_clone().unwrap().send().await.unwrap().status();
    assert_eq!(status.as_u16(), 401);
    assert_eq!(asked.header("token", admin).send().await.unwrap().status().as_u16(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_may_do_everything_where_that_is_said_and_a_wrong_token_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    local_token(&data, "admin", &[]);
    let server = Floe::start_in(&data, &["--auth-anonymous", "allow"]).await;
    let client = reqwest::Client::new();
    let ask = || client.get(server.url("/api/v1/topics"));
    assert_eq!(ask().send().await.unwrap().status().as_u16(), 200);
    assert_eq!(ask().header("token", "wrong").send().await.unwrap().status().as_u16(), 401);
    let made = floe(&["token", "create", "b", "--url", &server.url("")], None);
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""), "nothing changes for others");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_whom_others_vouch_prints_no_secret_and_needs_a_rule() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("data");
    let place = place.to_str().unwrap();
    let run =
        |arguments: &[&str]| floe(&[&["token"], arguments, &["--data-dir", place]].concat(), None);
    let made = run(&["create", "ci", "--subject", "repo:shop", "--allow", "all:topic:a"]);
    assert_eq!((made.code, made.out.as_str()), (Some(0), "token ci is made\n"), "{}", made.err);
    let without = run(&["create", "x", "--certificate", "CN=x"]);
    assert!(without.code == Some(1) && without.err.contains("needs a rule"), "{}", without.err);
    let both = run(&["create", "x", "--certificate", "CN=x", "--subject", "x"]);
    assert_eq!(both.code, Some(2), "{}", both.err);
    let twice = run(&["create", "y", "--subject", "repo:shop", "--allow", "all"]);
    assert!(twice.code == Some(1) && twice.err.contains("\"ci\" exists"), "{}", twice.err);
    let listed = run(&["list"]).out;
    assert!(listed.contains("subject repo:shop") && listed.contains("all:topic:a"), "{listed}");
}
