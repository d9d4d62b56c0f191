//! Keys: where they come from and what is said when they are not there.

use std::fs;

use secrecy::ExposeSecret as _;

use super::Setup;

/// The provider's key, or the reason that it is missing.
fn key(setup: &Setup) -> Result<Option<String>, String> {
    let key = setup.good().config.providers["p"].key("p", &setup.environment());
    key.map(|key| key.map(|key| key.expose_secret().to_owned())).map_err(|missing| setup.plain(&missing.to_string()))
}

fn with(setting: &str) -> Setup {
    Setup::with(&format!(
        "[providers.p]\nkind = \"openai\"\nbase_url = \"http://h\"\n{setting}\n[roles]\ncoder = [\"p/x\"]"
    ))
}

#[test]
fn a_provider_without_a_key_setting_is_called_without_a_key() {
    let mut setup = with("");
    setup.env("CREDENTIALS_DIRECTORY", "/nonexistent");
    assert_eq!(key(&setup), Ok(None));
}

#[test]
fn a_key_comes_from_its_variable_without_white_space() {
    let mut setup = with("api_key_env = \"KEY\"");
    assert_eq!(key(&setup), Err("environment variable KEY is not set".to_owned()));
    setup.env("KEY", "");
    assert_eq!(key(&setup), Err("environment variable KEY is empty".to_owned()));
    setup.env("KEY", " sk-1\n");
    assert_eq!(key(&setup), Ok(Some("sk-1".to_owned())));
    setup.env("KEY", "sk\r\nX-Header: 1");
    assert_eq!(key(&setup), Err("environment variable KEY holds more than one line or a control character".to_owned()));
}

#[test]
fn a_key_comes_from_its_file_without_the_line_break() {
    let setup = with("api_key_file = \"keys/p\"");
    assert_eq!(key(&setup), Err("key file keys/p cannot be read: there is no such file".to_owned()));
    fs::create_dir(setup.path("keys")).unwrap();
    for (text, result) in [
        ("sk-2\n", Ok(Some("sk-2".to_owned()))),
        (" \n", Err("key file keys/p is empty".to_owned())),
        ("a\nb\n", Err("key file keys/p holds more than one line or a control character".to_owned())),
        (&"x".repeat(65 * 1024), Err("key file keys/p is larger than 64 KiB".to_owned())),
    ] {
        fs::write(setup.path("keys/p"), text).unwrap();
        assert_eq!(key(&setup), result);
    }
}

#[test]
fn systemds_credential_stands_in_for_what_is_missing() {
    let mut setup = with("api_key_file = \"gone\"");
    let folder = setup.path("credentials");
    fs::create_dir(&folder).unwrap();
    setup.env("CREDENTIALS_DIRECTORY", folder.to_str().unwrap());
    let gone = "key file gone cannot be read: there is no such file";
    assert_eq!(key(&setup), Err(format!("{gone}, and there is no credential \"p\"")));
    fs::write(folder.join("p"), "\n").unwrap();
    assert_eq!(key(&setup), Err(format!("{gone}; key file credentials/p is empty")));
    fs::write(folder.join("p"), "sk-3\n").unwrap();
    assert_eq!(key(&setup), Ok(Some("sk-3".to_owned())));
}

#[test]
fn the_trackers_token_is_found_in_the_same_ways() {
    let mut setup = Setup::with("[issues]\ntoken_env = \"TOKEN\"");
    let token = |setup: &Setup| setup.good().config.issues.token(&setup.environment());
    assert_eq!(token(&setup).unwrap_err().to_string(), "environment variable TOKEN is not set");
    setup.env("TOKEN", "t");
    assert_eq!(token(&setup).unwrap().unwrap().expose_secret(), "t");
    assert!(Setup::new().good().config.issues.token(&setup.environment()).unwrap().is_none());
}

#[test]
fn no_debug_output_holds_a_secret() {
    let mut setup = Setup::with("[alerts]\nwebhook = \"https://h/hunter2\"");
    setup.env("KEY", "hunter2").flag("alerts.webhook", "https://h/hunter2");
    let loaded = setup.good();
    assert_eq!(loaded.config.alerts.webhook.as_ref().unwrap().expose(), "https://h/hunter2");
    for text in
        [format!("{:?}", loaded.config), format!("{:?}", loaded), format!("{:?}", setup.environment()), loaded.show()]
    {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_key_file_can_be_a_credential_of_any_name() {
    let mut setup = with("api_key_file = \"$CREDENTIALS_DIRECTORY/shared-key\"");
    let none = "credential \"shared-key\" is read by a service that systemd starts with it (LoadCredential=), and there is none";
    assert_eq!(key(&setup), Err(none.to_owned()));
    let folder = setup.path("credentials");
    fs::create_dir(&folder).unwrap();
    setup.env("CREDENTIALS_DIRECTORY", &folder.display().to_string());
    assert!(key(&setup).unwrap_err().contains("there is no such file"));
    fs::write(folder.join("shared-key"), "sk-4\n").unwrap();
    assert_eq!(key(&setup), Ok(Some("sk-4".to_owned())));
}

#[test]
fn a_credential_is_a_name_and_no_path() {
    for wrong in ["", "../key", "a/b"] {
        let setup = with(&format!("api_key_file = \"$CREDENTIALS_DIRECTORY/{wrong}\""));
        assert!(setup.said().contains("expected the name of a credential"), "{wrong}");
    }
}
