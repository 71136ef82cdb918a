use super::*;

#[test]
fn every_built_in_situation_is_fit_to_use() {
    for (name, text) in BUILT_IN {
        let s = Situation::parse(name, text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(s.name, *name);
        assert!(!s.explain.trim().is_empty(), "{name}");
        assert!(BUILT_IN.iter().any(|(n, _)| *n == s.against), "{name} is compared with {}", s.against);
    }
    assert_eq!(Situation::list().len(), BUILT_IN.len());
}

#[test]
fn every_file_is_built_in() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../situations");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(BUILT_IN.iter().any(|(n, _)| name == format!("{n}.toml")), "{name}");
    }
}

#[test]
fn scales_stretch_sizes_and_say_when_they_cannot() {
    let s = Situation::load("shrink-in-flight").unwrap();
    let seven = s.at_scale(7).unwrap();
    assert_eq!((seven.receiver.window, seven.receiver.wscale), (Some(Size(20_000)), Some(7)));
    let fourteen = s.at_scale(14).unwrap();
    assert_eq!(fourteen.receiver.window, Some(Size(640_000)));
    assert_eq!(fourteen.bytes, Size(4_800_000));
    assert_eq!(fourteen.steps[2].edge, Some(Size(160_000)));
    let below = Situation::load("shrink-below-segment").unwrap();
    assert!(below.at_scale(14).unwrap_err().contains("cannot be said in units of 16384"));
    assert!(below.at_scale(7).is_ok());
}

#[test]
fn what_is_wrong_is_said_with_key_value_and_fix() {
    let say = |text: &str| {
        Situation::parse("x.toml", &format!("name=\"t\"\nabout=\"a\"\n{text}")).unwrap_err().to_string()
    };
    assert!(say("colour = 1").contains("colour"));
    assert!(say("clauses = [\"MUST-99\"]").contains("MUST-34"));
    assert!(say("link = \"up:delay=1ms\"").contains("down: only"));
    assert!(say("[receiver]\npolicy=\"linux-2\"").contains("receiver.policy"));
    assert!(say("[receiver]\nwscale=0\nwindow=70000").contains("at most 65535"));
    assert!(say("[receiver]\nsysctls={tcp_rmem=\"x\"}").contains("receiver.sysctls"));
    assert!(say("[receiver]\ndriver={model=\"hub\"}").contains("tap"));
    assert!(say("[[step]]\nname=\"a\"\n[[step]]\nname=\"b\"").contains("step[0].until"));
    assert!(say("[[step]]\nname=\"a\"\nwindow=1\nedge=2").contains("one of the two"));
    assert!(say("[[step]]\nname=\"a\"\nwindow=\"wide\"").contains("wide"));
    assert!(say("[[step]]\nname=\"a\"\nlose=[0]").contains("from 1"));
    assert!(say("bytes = 0").contains("150000"));
    assert!(Situation::load("zero").unwrap_err().to_string().contains("zero-in-flight"));
}
