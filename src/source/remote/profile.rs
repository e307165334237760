//! Profiles of AWS: the files of keys and of settings that its programs share.
//!
//! ```text
//! ~/.aws/credentials    [name]            aws_access_key_id, aws_secret_access_key, aws_session_token
//! ~/.aws/config         [profile name]    the same, and region, endpoint_url
//! ```
//!
//! `AWS_PROFILE` says which profile, `default` if not; `AWS_SHARED_CREDENTIALS_FILE` and `AWS_CONFIG_FILE` say where the files are.
//! Variables of the environment go before what a profile says.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::source::environment::Environment;

/// Settings of a profile, and the variables that say the same.
const SETTINGS: [(&str, &str); 5] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
];
/// Settings by which keys are asked for elsewhere, and what does that.
const ASKED: [(&str, &str); 5] = [
    ("credential_process", "a program that prints keys"),
    ("sso_session", "single sign-on"),
    ("sso_start_url", "single sign-on"),
    ("source_profile", "a role that is assumed"),
    ("credential_source", "a role that is assumed"),
];
/// Variables that say where keys come from; one of them is enough to leave those of a profile alone.
const KEYED: [&str; 3] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
];

/// The variables that the profile of an environment stands for, without those that are set.
///
/// # Errors
///
/// A reason, without values, where the profile is named and not there, where its keys are not in the files, and where a file cannot be
/// read.
pub(super) fn variables(environment: &Environment) -> Result<Vec<(String, String)>, String> {
    let asked = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"];
    let asked = asked.iter().find_map(|name| environment.get(name));
    let name = asked.clone().unwrap_or_else(|| "default".to_owned());
    let sections = [
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name.clone()),
        (
            "AWS_CONFIG_FILE",
            "config",
            match &*name {
                "default" => name.clone(),
                name => format!("profile {name}"),
            },
        ),
    ];
    let (mut profile, mut found, mut files) = (BTreeMap::new(), false, Vec::new());
    for (variable, file, section) in sections {
        let Some(path) = place(environment, variable, file) else {
            continue;
        };
        files.push(path.display().to_string());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let Some(settings) = settings(&text, &section) else {
            continue;
        };
        found = true;
        // The file of keys goes before the other one.
        for (setting, value) in settings {
            profile.entry(setting).or_insert(value);
        }
    }
    if let Some(name) = asked.filter(|_| !found) {
        return Err(format!(
            "the profile {name:?} of AWS_PROFILE is in none of {}",
            files.join(", ")
        ));
    }
    let keyed = KEYED.iter().any(|name| environment.get(name).is_some());
    let has = |setting: &str| profile.contains_key(setting);
    if !keyed && !has(SETTINGS[0].0) {
        let elsewhere = ASKED.iter().find(|(setting, _)| has(setting));
        if let Some((setting, way)) = elsewhere {
            return Err(format!(
                "the profile {name:?} has its keys from {way} (`{setting}`), which is not done here; put them into the environment, such as \
                 by `eval \"$(aws configure export-credentials --profile {name} --format env)\"`"
            ));
        }
    }
    let is_set = |names: &[&str]| names.iter().any(|name| environment.get(name).is_some());
    let wanted = SETTINGS.iter().filter(|(_, variable)| match *variable {
        "AWS_REGION" => !is_set(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
        "AWS_ENDPOINT_URL" => !is_set(&["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]),
        // Keys of two places would be a pair that nobody has.
        _ => !keyed,
    });
    let wanted = wanted.filter_map(|(setting, variable)| {
        Some(((*variable).to_owned(), profile.get(*setting)?.clone()))
    });
    Ok(wanted.collect())
}

/// Where a file is: where a variable says, or in the home of the user.
fn place(environment: &Environment, variable: &str, file: &str) -> Option<PathBuf> {
    let home = || {
        let home = environment.get("HOME").or(environment.get("USERPROFILE"))?;
        Some(PathBuf::from(home))
    };
    let Some(said) = environment.get(variable) else {
        return Some(home()?.join(".aws").join(file));
    };
    match said.strip_prefix("~/") {
        Some(rest) => Some(home()?.join(rest)),
        None => Some(said.into()),
    }
}

/// The settings of a section. Lines that are indented belong to a setting of several.
fn settings(text: &str, section: &str) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = plain
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            let words: Vec<&str> = name.0.split_whitespace().collect();
            inside = words.join(" ").replace('"', "") == section;
            if inside {
                found.get_or_insert_default();
            }
            continue;
        }
        let indented = line.starts_with([' ', '\t']);
        if let (true, false, Some((name, value))) = (inside, indented, plain.split_once('='))
            && let Some(found) = &mut found
        {
            let value = value.trim();
            if !value.is_empty() {
                found.insert(name.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "[default]\naws_access_key_id = DEFAULTID\naws_secret_access_key=DEFAULTSECRET\n\n# a comment\n[work]\n\
                               aws_access_key_id=WORKID\naws_secret_access_key= WORK=SECRET \naws_session_token=WORKTOKEN\n";
    const CONFIG: &str = "[default]\nregion = eu-west-1\n[profile work]\nregion=us-east-2\ns3 =\n  endpoint_url = http://nested\n\
                          endpoint_url = http://127.0.0.1:9000\n[profile of-sso]\nsso_session = me\n[profile \"of program\"]\n\
                          credential_process = /bin/keys MARKED\n";

    fn with(more: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path().join(".aws");
        fs::create_dir(&folder).expect("writable");
        fs::write(folder.join("credentials"), CREDENTIALS).expect("writable");
        fs::write(folder.join("config"), CONFIG).expect("writable");
        let home = home.path().display().to_string();
        let environment = more.iter().copied().chain([("HOME", &*home)]);
        variables(&Environment::of(environment))
    }

    fn named(found: &[(String, String)]) -> Vec<(&str, &str)> {
        found
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect()
    }

    /// As `aws configure list` has it. Catches keys of two places in one pair, and settings of another section.
    #[test]
    fn a_profile_fills_what_the_environment_leaves_open() {
        let found = with(&[]).expect("a profile");
        assert_eq!(
            named(&found),
            [
                ("AWS_ACCESS_KEY_ID", "DEFAULTID"),
                ("AWS_SECRET_ACCESS_KEY", "DEFAULTSECRET"),
                ("AWS_REGION", "eu-west-1"),
            ]
        );
        let found = with(&[("AWS_PROFILE", "work"), ("AWS_DEFAULT_REGION", "mars")]).expect("one");
        assert_eq!(
            named(&found),
            [
                ("AWS_ACCESS_KEY_ID", "WORKID"),
                ("AWS_SECRET_ACCESS_KEY", "WORK=SECRET"),
                ("AWS_SESSION_TOKEN", "WORKTOKEN"),
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000"),
            ]
        );
        let found = with(&[("AWS_PROFILE", "work"), ("AWS_ACCESS_KEY_ID", "ID")]).expect("one");
        let names: Vec<&str> = named(&found).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["AWS_REGION", "AWS_ENDPOINT_URL"]);
        assert_eq!(
            variables(&Environment::of([("HOME", "/nonexistent")])),
            Ok(Vec::new())
        );
    }

    /// Catches a profile without keys that is taken for a public bucket, and a command that is printed.
    #[test]
    fn profiles_that_ask_elsewhere_are_refused() {
        for (name, words) in [
            ("of-sso", "single sign-on"),
            ("of program", "credential_process"),
            ("nobody", "is in none of"),
        ] {
            let reason = with(&[("AWS_PROFILE", name)]).expect_err(name);
            assert!(reason.contains(words) && reason.contains(name), "{reason}");
            assert!(!reason.contains("MARKED"), "{reason}");
        }
        // With keys in the environment, only the region is missing.
        let keyed = [("AWS_PROFILE", "of-sso"), ("AWS_ACCESS_KEY_ID", "ID")];
        assert_eq!(with(&keyed), Ok(Vec::new()));
    }
}
