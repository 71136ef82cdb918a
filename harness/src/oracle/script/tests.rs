use super::*;

fn one(text: &str) -> Result<Script, ScriptError> {
    Script::parse_all("test", text, None).map(|mut v| v.remove(0))
}

#[test]
fn defaults_and_unknown_keys() {
    let s = one(
        r#"{"name":"x","colour":"red","ops":[{"op":"inject","len":5,"note":1},{"op":"read","n":"all"}]}"#,
    )
    .unwrap();
    assert_eq!((s.mtu, s.isn, s.rx_path, s.handshake.wscale), (1500, 1_000_000, RxPath::Linear, Some(7)));
    assert_eq!(s.raw["colour"], "red");
    assert_eq!(s.steps[0].raw["note"], 1);
    assert_eq!((s.steps[0].gap, s.steps[0].settle), (1, Settle::Ack));
    assert!(matches!(&s.steps[0].op, Op::Inject(x) if x.len == 5 && x.seq == Position::NEXT));
}

#[test]
fn positions() {
    let p = |t: &str| Position::parse(t);
    assert_eq!(p("edge-100"), Some(Position { base: Base::Edge, offset: -100 }));
    assert_eq!(p("next+7"), Some(Position { base: Base::Next, offset: 7 }));
    assert_eq!(p("ack"), Some(Position { base: Base::Ack, offset: 0 }));
    for t in ["", "next+", "next++1", "edge-99999999999", "then", "next 1"] {
        assert_eq!(p(t), None, "{t}");
    }
}

#[test]
fn lists_are_written_out() {
    let s = one(
        r#"{"ops":[{"op":"repeat","n":3,"ops":[{"op":"inject","len":1},{"op":"reads","n":5,"count":2}]}]}"#,
    )
    .unwrap();
    assert_eq!(s.steps.len(), 9);
    assert_eq!(s.steps[2].raw["op"], "read");
}

#[test]
fn settling() {
    let s = one(r#"{"settle":"none","ops":[{"op":"ackall"},{"op":"ackall","settle":30},{"op":"ackall","settle":"ack"}]}"#).unwrap();
    let v: Vec<_> = s.steps.iter().map(|s| s.settle).collect();
    assert_eq!(v, [Settle::None, Settle::Ms(30), Settle::Ack]);
}

#[test]
fn what_is_wrong_is_said() {
    let say = |t: &str| one(t).unwrap_err().to_string();
    assert!(say("{\"name\":\"a\"}\n{\"name\":").contains("test:2"));
    assert!(say("[]").contains("JSON object"));
    assert!(say("").contains("nothing"));
    assert!(say(r#"{"name":"a","ops":[{"op":"inject"},{"op":"jump"}]}"#).contains("ops[1]"));
    assert!(say(r#"{"ops":[{"op":"inject","seq":"nxt"}]}"#).contains("next, ack, edge or rcv"));
    assert!(say(r#"{"ops":[{"op":"inject","len":70000}]}"#).contains("65000"));
    assert!(say(r#"{"ops":[{"op":"inject","flags":"Q"}]}"#).contains("FSRPAUEC"));
    assert!(say(r#"{"mtu":3}"#).contains("576"));
    assert!(say(r#"{"sysctl":{"kernel.panic":1}}"#).contains("net.*"));
    assert!(say(r#"{"sysctl":{"net.ipv4/../../x":1}}"#).contains("net.*"));
    assert!(say(r#"{"ops":[{"op":"setsockopt","name":"SO_LINGER","value":1}]}"#).contains("SO_RCVBUF"));
    let many = format!(r#"{{"ops":[{}"repeat","n":4000000000,"ops":[{{"op":"ackall"}}]}}]}}"#, "{\"op\":");
    assert!(say(&many).contains("written out"));
    let deep = (0..12)
        .fold(r#"{"op":"ackall"}"#.to_owned(), |s, _| format!(r#"{{"op":"repeat","n":2,"ops":[{s}]}}"#));
    assert!(say(&format!(r#"{{"ops":[{deep}]}}"#)).contains("flatter"));
}

#[test]
fn a_base_is_overridden_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let write = |n: &str, t: &str| std::fs::write(dir.path().join(n), t).unwrap();
    write("a.json", r#"{"name":"a","mtu":9000,"isn":5}"#);
    write("b.json", r#"{"base":"a.json","name":"b","isn":6}"#);
    write("loop.json", r#"{"base":"loop.json"}"#);
    let s = Script::load(&dir.path().join("b.json")).unwrap().remove(0);
    assert_eq!((s.name.as_str(), s.mtu, s.isn), ("b", 9000, 6));
    assert!(Script::load(&dir.path().join("loop.json")).unwrap_err().to_string().contains("itself"));
}

#[test]
fn sysctls_take_numbers_texts_and_lists() {
    let s = one(r#"{"sysctl":{"tcp_rmem":[4096,131072,6291456],"tcp_sack":0,"net.core.rmem_max":"77"}}"#)
        .unwrap();
    assert_eq!(s.sysctl["net.ipv4.tcp_rmem"], "4096 131072 6291456");
    assert_eq!(s.sysctl["net.core.rmem_max"], "77");
}
