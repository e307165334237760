//! Tokens of the hub, keys of profiles and of other stores, and the password of a proxy: all marked, and none of them said.

use std::fs;

use tempfile::TempDir;

use crate::{
    SHARDS, files,
    hub_writes::HubWrites,
    loopback::{ID, Loopback},
    s3::{KEY_ID, SECRET},
    secrets::{Room, USER},
    tinyrust,
};

/// Catches a token in the errors of the hub, and a proxy's password.
#[test]
fn tokens_of_the_hub_and_of_other_stores_are_never_said() {
    let room = Room::new();
    let files = files(&tinyrust());
    let hub = Loopback::serve(files);
    hub.set(|state| state.token = Some("hf_MARKEDRIGHTTOKEN".to_owned()));
    let asked = |model: &str, token: &str, more: &[&str]| {
        let variables = [
            ("HF_ENDPOINT", hub.url.as_str()),
            ("HF_TOKEN", token),
            ("HF_HOME", "hub"),
        ];
        room.run(&[&["inspect", model, "--json"], more].concat(), &variables)
    };
    for (model, more) in [(ID, &[][..]), (ID, &["--no-cache"]), ("hf://org/tiny", &[])] {
        assert!(
            asked(model, "hf_MARKEDRIGHTTOKEN", more).status.success(),
            "{model}"
        );
        assert!(
            !asked(model, "hf_MARKEDWRONGTOKEN", more).status.success(),
            "{model}"
        );
        assert!(
            !asked(model, "hf_MARKED\u{e9}TOKEN", more).status.success(),
            "{model}"
        );
    }
    assert!(
        hub.log()
            .iter()
            .any(|request| request.authorization.as_deref() == Some("Bearer hf_MARKEDRIGHTTOKEN"))
    );
    let endpoint = hub.url.replace("http://", &format!("http://{USER}@"));
    let quantize = [
        &["quantize", "s3://models/source", "--out", "finished"],
        &SHARDS[..],
    ]
    .concat();
    room.succeed(&quantize);
    let writes = HubWrites::serve(u64::MAX);
    for (endpoint, token) in [
        (&endpoint, "hf_MARKEDRIGHTTOKEN"),
        (&writes.url, "hf_MARKEDWRONGTOKEN"),
    ] {
        let variables = [("HF_ENDPOINT", endpoint.as_str()), ("HF_TOKEN", token)];
        room.fail(&["inspect", "org/other"], &variables);
        room.fail(&["inspect", "hf://org/other"], &variables);
        room.fail(&["push", "finished", "hf://org/other"], &variables);
    }
    // Keys of a profile are enough, and those of a program are not asked for.
    let home = TempDir::new().unwrap();
    let profiles = home.path().join("profiles");
    let [id, secret] = [KEY_ID, SECRET];
    let text = format!(
        "[mine]\naws_access_key_id={id}\naws_secret_access_key={secret}\naws_session_token=MARKEDOLD\n"
    );
    fs::write(
        &profiles,
        text + "[asked]\ncredential_process=/bin/echo MARKEDPROCESS\n",
    )
    .unwrap();
    let of_profile = |name: &str| {
        let variables = [
            ("AWS_SHARED_CREDENTIALS_FILE", profiles.to_str().unwrap()),
            ("AWS_ACCESS_KEY_ID", ""),
            ("AWS_SECRET_ACCESS_KEY", ""),
            ("AWS_PROFILE", name),
        ];
        room.run(&["inspect", "s3://models/source"], &variables)
    };
    assert!(of_profile("mine").status.success());
    let asked = of_profile("asked");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("credential_process"));
    // Other stores, which take none of these keys.
    let google = r#"{"type": "service_account", "private_key": "MARKEDPRIVATE", "private_key_id": "MARKEDID", "client_email": "MARKED@example.org"}"#;
    for (model, variables) in [
        (
            "gs://bucket/m",
            [("GOOGLE_SERVICE_ACCOUNT_KEY", google), ("NO", "")],
        ),
        (
            "gs://bucket/m",
            [("GOOGLE_SERVICE_ACCOUNT_KEY", "MARKED"), ("NO", "")],
        ),
        (
            "gs://bucket/m",
            [
                ("GOOGLE_SERVICE_ACCOUNT", "MARKED/nothing.json"),
                ("GOOGLE_SERVICE_ACCOUNT_KEY", ""),
            ],
        ),
        (
            "az://container/m",
            [
                ("AZURE_STORAGE_ENDPOINT", room.web.url.as_str()),
                ("AZURE_STORAGE_SAS_TOKEN", ""),
            ],
        ),
        (
            "az://container/m",
            [
                ("AZURE_STORAGE_ENDPOINT", room.web.url.as_str()),
                ("AZURE_STORAGE_ACCOUNT_KEY", ""),
            ],
        ),
        (
            "az://container/m",
            [
                ("AZURE_STORAGE_ACCOUNT_KEY", "no base64 MARKED"),
                ("AZURE_STORAGE_SAS_TOKEN", ""),
            ],
        ),
        (
            "http://example.org/m",
            [
                (
                    "HTTP_PROXY",
                    room.web
                        .url
                        .replace("http://", &format!("http://{USER}@"))
                        .as_str(),
                ),
                ("NO_PROXY", ""),
            ],
        ),
    ] {
        let named = [
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_ALLOW_HTTP", "true"),
        ];
        room.fail(&["inspect", model], &[&named[..], &variables].concat());
    }
    room.written();
}
