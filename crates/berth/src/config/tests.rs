use super::*;

fn loaded(files: &[(&str, &str)]) -> Result<Loaded, Error> {
    let mut sources = vec![Source::parse("default".into(), DEFAULT_TEXT.to_owned())?];
    for (path, text) in files {
        sources.push(Source::parse((*path).into(), (*text).to_owned())?);
    }
    Loaded::of(sources)
}

#[track_caller]
fn refusal(text: &str) -> String {
    let loaded = match loaded(&[("/etc/berth/config.toml", text)]) {
        Ok(loaded) => loaded,
        Err(error) => return error.to_string(),
    };
    loaded.check().expect_err("it should be refused").to_string()
}

#[test]
fn the_default_file_is_complete_and_passes_its_own_checks() {
    let loaded = loaded(&[]).unwrap();
    let config = loaded.check().unwrap();
    assert_eq!(config.root, Path::new("/var/lib/berth"));
    assert_eq!(config.handlers["berth"].runtime_root, Path::new("/run/berth/oci/berth"));
    assert_eq!(config.metrics.unwrap().port(), 9733);
    // A key that the default file forgot would come out empty.
    let dumped = toml::Table::try_from(&loaded.file).unwrap();
    let default: toml::Table = toml::from_str(DEFAULT_TEXT).unwrap();
    assert_eq!(dumped, default);
}

#[test]
fn a_later_file_replaces_single_keys_and_leaves_the_rest() {
    let loaded = loaded(&[
        ("/etc/berth/config.toml", "[log]\nlevel = \"debug\"\n[network]\nbin_dirs = [\"/a\"]"),
        ("/etc/berth/config.toml.d/10.toml", "[log]\nformat = \"json\""),
        (
            "/etc/berth/config.toml.d/20.toml",
            "[handlers.gvisor]\nshim = \"containerd-shim-runsc-v1\"",
        ),
    ])
    .unwrap();
    let config = loaded.check().unwrap();
    assert_eq!((config.log_level.as_str(), config.log_format), ("debug", Format::Json));
    assert_eq!(config.network.bin_dirs, [Path::new("/a")], "lists are replaced, not joined");
    assert_eq!(config.handlers.len(), 2);
    assert_eq!(config.pods.default_handler, "berth");
}

#[test]
fn an_unknown_key_is_refused_with_its_file_line_and_what_to_do() {
    let said = refusal("root = \"/srv\"\n\n[log]\nlevel = \"info\"\nlevle = \"debug\"\n");
    assert!(said.starts_with("/etc/berth/config.toml:5: unknown field `levle`"), "{said}");
    assert!(said.contains("berth config default"), "{said}");
    let said = refusal("[nonsense]\na = 1\n");
    assert!(said.starts_with("/etc/berth/config.toml:1: unknown field `nonsense`"), "{said}");
}

#[test]
fn a_file_that_is_no_toml_or_has_a_wrong_type_is_refused_with_its_line() {
    assert!(refusal("root = \n").starts_with("/etc/berth/config.toml:1: "));
    let said = refusal("\n[images]\nparallel_layers = \"six\"\n");
    assert!(said.starts_with("/etc/berth/config.toml:3: "), "{said}");
}

#[test]
fn a_value_that_does_not_do_is_refused_where_it_was_set() {
    for (text, begin) in [
        ("root = \"var\"", "/etc/berth/config.toml:1: root is \"var\": give an absolute path"),
        ("[api]\n\nsocket = \"x\"", "/etc/berth/config.toml:3: api.socket is"),
        ("[log]\nlevel = \"loud=very\"", "/etc/berth/config.toml:2: log.level is"),
        ("[metrics]\naddress = \"localhost\"", "/etc/berth/config.toml:2: metrics.address is"),
        ("[cgroups]\nslice = \"berth\"", "/etc/berth/config.toml:2: cgroups.slice is"),
        ("[cgroups]\nparent = \"/a/../b\"", "/etc/berth/config.toml:2: cgroups.parent is"),
        ("[pods]\ndefault_handler = \"x\"", "/etc/berth/config.toml:2: pods.default_handler is"),
        ("[handlers.Gvisor]\nshim = \"x\"", "/etc/berth/config.toml:1: handlers.Gvisor is"),
        ("[handlers.x]\nruntime = \"a/b\"", "/etc/berth/config.toml:2: handlers.x.runtime is"),
        ("[handlers.x]\nshim = \"./x\"", "/etc/berth/config.toml:2: handlers.x.shim is"),
        ("[network]\nbin_dirs = []", "/etc/berth/config.toml:2: network.bin_dirs is"),
        ("[network]\nbin_dirs = [\"x\"]", "/etc/berth/config.toml:2: network.bin_dirs is"),
        ("[images]\nparallel_layers = 0", "/etc/berth/config.toml:2: images.parallel_layers is"),
        ("[deadlines]\nmount = \"soon\"", "/etc/berth/config.toml:2: deadlines.mount is"),
        ("[deadlines]\nmount = \"0s\"", "/etc/berth/config.toml:2: deadlines.mount is"),
        ("[deadlines]\nmount = \"25h\"", "/etc/berth/config.toml:2: deadlines.mount is"),
    ] {
        let said = refusal(text);
        assert!(said.starts_with(begin), "{text}: {said}");
    }
    let long = format!("[api]\nsocket = \"/{}\"", "a".repeat(107));
    assert!(refusal(&long).contains("ends at 107 bytes"));
}

#[test]
fn files_and_drop_ins_are_read_from_disk_in_the_order_of_their_names() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("config.toml");
    let directory = temp.path().join("config.toml.d");
    std::fs::write(&path, "root = \"/one\"\nstate = \"/one\"").unwrap();
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("20.toml"), "root = \"/three\"").unwrap();
    std::fs::write(directory.join("10.toml"), "root = \"/two\"").unwrap();
    std::fs::write(directory.join("30.toml.bak"), "root = \"/four\"").unwrap();
    let loaded = Loaded::read(Some(&path)).unwrap();
    assert_eq!((loaded.file.root.as_str(), loaded.file.state.as_str()), ("/three", "/one"));
    assert_eq!(loaded.files().count(), 3);
    let absent = Loaded::read(Some(&temp.path().join("none.toml")));
    assert!(matches!(absent, Err(Error::Read { .. })));
}

#[test]
fn a_shim_is_named_by_its_path_its_binary_or_its_runtime_type() {
    let shim = |given: &str| {
        let text = format!("[handlers.x]\nshim = {given:?}\n");
        let loaded = loaded(&[("/c.toml", &text)]).unwrap();
        loaded.check().unwrap().handlers["x"].shim.clone()
    };
    assert_eq!(shim("io.containerd.runc.v2"), "containerd-shim-runc-v2");
    assert_eq!(shim("org.example.my.v10"), "containerd-shim-my-v10");
    assert_eq!(
        shim("/opt/kata/bin/containerd-shim-kata-v2"),
        "/opt/kata/bin/containerd-shim-kata-v2"
    );
    assert_eq!(shim("containerd-shim-kata-v2"), "containerd-shim-kata-v2");
    assert_eq!(shim(""), "containerd-shim-berth-v1");
    // Neither a type nor a path: a name to be looked for.
    assert_eq!(shim("runc.v2"), "runc.v2");
}

#[test]
fn options_are_sent_in_the_message_that_the_shim_takes() {
    let options = |text: &str| {
        let text = format!("[handlers.x]\n{text}");
        loaded(&[("/c.toml", &text)]).unwrap().check().unwrap().handlers["x"].options.clone()
    };
    let of = |text: &str| options(text).map(|options| options.type_url);
    let (runc, other) = ("containerd.runc.v1.Options", "runtimeoptions.v1.Options");
    for (text, wanted) in [
        ("shim = \"io.containerd.runc.v2\"\noptions.binary_name = \"crun\"", Some(runc)),
        ("shim = \"/x/containerd-shim-runc-v2\"\noptions.BinaryName = \"crun\"", Some(runc)),
        ("shim = \"io.containerd.runsc.v1\"\noptions.ConfigPath = \"/r\"", Some(other)),
        ("shim = \"/x/mine\"\noptions.config_body = \"a = 1\"", Some(other)),
        ("shim = \"/x/mine\"\noptions_type = \"containerd.runc.v1.Options\"", Some(runc)),
        ("shim = \"io.containerd.runc.v2\"", None),
        ("shim = \"io.containerd.runsc.v1\"\noptions = {}", None),
    ] {
        assert_eq!(of(text).as_deref(), wanted, "{text}");
    }
    let [by_field, as_containerd] = ["config_path", "ConfigPath"].map(|key| {
        options(&format!("shim = \"io.containerd.runsc.v1\"\noptions.{key} = \"/r\"")).unwrap()
    });
    assert_eq!(by_field, as_containerd);
    assert_eq!(by_field.value, b"\x12\x02/r");
}

#[test]
fn options_that_a_shim_does_not_take_are_refused_with_their_key() {
    let runc = "[handlers.x]\nshim = \"io.containerd.runc.v2\"\n";
    for (text, words) in [
        (
            format!("{runc}[handlers.x.options]\nroot = \"/r\"\nbinary = \"crun\"\n"),
            [":5: handlers.x.options.binary is", "unknown field", "containerd.runc.v1.Options"],
        ),
        (
            format!("{runc}options = {{ systemd_cgroup = \"yes\" }}\n"),
            [":3: handlers.x.options.systemd_cgroup is", "invalid type", "boolean"],
        ),
        (
            format!("{runc}options = {{ Root = \"/a\", root = \"/b\" }}\n"),
            [":3: handlers.x.options is", "duplicate field", "root"],
        ),
        (
            format!("{runc}options.config_path = \"/r\"\n"),
            [":3: handlers.x.options.config_path is", "unknown field", "options_type"],
        ),
        (
            "[handlers.x]\noptions.root = \"/r\"\n".to_owned(),
            [":2: handlers.x.options is", "`runtime_root`", "leave it out"],
        ),
        (
            format!("{runc}options_type = \"mine\"\n"),
            [":3: unknown variant `mine`", "containerd.runc.v1.Options", "runtimeoptions"],
        ),
        (format!("{runc}sandbox = \"no\"\n"), [":3: unknown variant `no`", "auto", "task"]),
        (
            format!("{runc}pod_annotations = [\"a b\"]\n"),
            [":3: handlers.x.pod_annotations is", "a b", "* and ?"],
        ),
        (format!("{runc}base_spec = \"x\"\n"), [":3: handlers.x.base_spec is", "absolute", ""]),
    ] {
        let said = refusal(&text);
        for word in words {
            assert!(said.contains(word), "{text}: no {word:?} in {said}");
        }
    }
}

#[test]
fn a_handler_in_two_files_has_the_keys_of_both_and_the_later_one_s_values() {
    let loaded = loaded(&[
        ("/c.toml", "[handlers.x]\nshim = \"io.containerd.kata.v2\"\nprivileged = false\n"),
        ("/d.toml", "[handlers.x]\nshim = \"io.containerd.runsc.v1\"\n"),
    ])
    .unwrap();
    let handler = &loaded.check().unwrap().handlers["x"];
    assert_eq!(handler.shim, "containerd-shim-runsc-v1");
    assert!(!handler.privileged);
    let twice = "[handlers.x]\nshim = \"a\"\n[handlers.x]\nshim = \"b\"\n";
    assert!(refusal(twice).starts_with("/etc/berth/config.toml:3: duplicate key"));
}
