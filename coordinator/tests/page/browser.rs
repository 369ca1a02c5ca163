//! The pages in a real browser: every text can be read, wide and narrow, light and dark,
//! the keyboard reaches everything, and what an operator comes for is done.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_repository::trust::Trust;
use holdfast_tests::browser::Browser;
use serde_json::json;

use super::people::asked;
use super::{POLICY, reading};
use crate::house::{House, Running, SEGMENT, wait_until};

/// Texts whose contrast is too low; shared with the evidence's pages.
const CONTRAST: &str = include_str!("../../../tests/tests/contrast.js");

/// Everything that the keyboard should reach, in the order of the document.
const STOPS: &str = "[...document.querySelectorAll('a[href]:not([tabindex=\"-1\"]), button, input:not([type=hidden]), summary, [tabindex=\"0\"]')].filter(e => e.checkVisibility())";

const PAGES: [&str; 6] = [
    "/",
    "/clusters/acme/erp?window=all",
    "/calendar",
    "/approvals",
    "/cost",
    "/access",
];

/// A coordinator with something on every page.
async fn opened() -> (House, Running) {
    let house = House::build_with(POLICY, "").await;
    let trust = Trust::load(&house.repository, &house.config.trust_root)
        .await
        .unwrap();
    asked(&house, &trust).await;
    house.put_wal(0, SEGMENT, &["east", "west"]).await;
    let running = house.open_reading(reading()).await;
    wait_until("the objects to be counted", || async {
        let (_, body) = running.get("/v1/cost").await;
        body.contains("\"counted\":\"").then_some(())
    })
    .await;
    (house, running)
}

/// Does `work` with a browser beside the runtime, which serves the pages.
async fn browse(running: &Running, work: impl FnOnce(&mut Browser, &str) -> Result<()> + Send + 'static) {
    let base = format!("http://localhost:{}", running.http.port());
    let done = tokio::task::spawn_blocking(move || work(&mut Browser::start()?, &base)).await;
    done.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_text_can_be_read_and_nothing_is_too_wide() {
    let (_house, running) = opened().await;
    browse(&running, |browser, base| {
        for scheme in ["light", "dark"] {
            for width in [1280, 390] {
                browser.look(width, scheme)?;
                for page in PAGES {
                    browser.open(&format!("{base}{page}"))?;
                    // What is folded has texts as well.
                    browser.ask("document.querySelectorAll('details').forEach(d => d.open = true)")?;
                    picture(browser, page, scheme, width)?;
                    let found = browser.ask(CONTRAST)?;
                    let texts = found["texts"].as_u64().context("a count")?;
                    ensure!(texts > 10, "{page}: only {texts} texts were found");
                    let bad = found["bad"].as_array().context("a list")?;
                    ensure!(bad.is_empty(), "{page}, {scheme}, {width} px wide: {bad:#?}");
                    let wide = browser
                        .ask("document.documentElement.scrollWidth - document.documentElement.clientWidth")?;
                    ensure!(wide == json!(0), "{page} at {width} px is {wide} px too wide");
                }
            }
        }
        Ok(())
    })
    .await;
    running.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything_in_order() {
    let (_house, running) = opened().await;
    browse(&running, |browser, base| {
        browser.look(1280, "light")?;
        for page in PAGES {
            browser.open(&format!("{base}{page}"))?;
            let stops = browser.ask(&format!("{STOPS}.length"))?;
            let stops = stops.as_u64().context("a count")?;
            ensure!(stops >= 6, "{page}: only {stops} places to go to");
            for n in 0..stops {
                browser.tab()?;
                let seen = browser.ask(&format!(
                    "(() => {{ const e = document.activeElement, s = getComputedStyle(e); \
                     return {{ place: {STOPS}.indexOf(e), what: e.outerHTML.slice(0, 80), \
                     ring: e.matches(':focus-visible') && s.outlineStyle !== 'none' }} }})()"
                ))?;
                ensure!(seen["place"] == json!(n), "{page}: stop {n} is {seen}");
                ensure!(
                    seen["ring"] == json!(true),
                    "{page}: nothing shows that {seen} has the focus"
                );
            }
        }
        Ok(())
    })
    .await;
    running.close().await;
}

/// From the fleet to whether a moment can be restored, and by what; and from there to
/// what waits for people.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_out_whether_a_moment_can_be_restored_and_what_waits() {
    let (_house, running) = opened().await;
    browse(&running, |browser, base| {
        for width in [1280, 390] {
            browser.look(width, "light")?;
            browser.open(&format!("{base}/"))?;
            follow(browser, "document.querySelector('a.cluster').click()", "location.pathname == '/clusters/acme/erp'")?;
            browser.open(&format!("{base}/clusters/acme/erp?window=all"))?;
            follow(
                browser,
                "{ const i = document.querySelector('input[name=moment]'); i.value = '2026-07-28T12:20:00+02:00'; \
                 i.form.requestSubmit(); }",
                "location.search.includes('moment=')",
            )?;
            let answer = browser.ask("document.querySelector('.answer').innerText")?;
            let answer = answer.as_str().context("a text")?;
            ensure!(answer.contains("2026-07-28 10:20:00 UTC can be restored"), "{answer}");
            ensure!(answer.contains("holdfast restore plan --cluster acme/erp"), "{answer}");

            follow(
                browser,
                "[...document.querySelectorAll('nav.sections a')].find(a => a.innerText == 'Approvals').click()",
                "location.pathname == '/approvals'",
            )?;
            let plan = "document.querySelector('.request details pre').checkVisibility()";
            ensure!(browser.ask(plan)? == json!(false), "the plan is folded");
            browser.ask("document.querySelector('.request summary').click()")?;
            ensure!(browser.ask(plan)? == json!(true), "the plan is shown");
            let here = browser.ask("document.querySelector('nav.sections [aria-current]').innerText")?;
            ensure!(here == json!("Approvals"), "{here}");
        }
        Ok(())
    })
    .await;
    running.close().await;
}

/// Does what leads to another page, and waits until that is there.
fn follow(browser: &mut Browser, what: &str, there: &str) -> Result<()> {
    browser.ask(what)?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        // While one page gives way to the other there is nobody to ask.
        let loaded = browser.ask(&format!("document.readyState == 'complete' && ({there})"));
        if loaded.is_ok_and(|loaded| loaded == json!(true)) {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "waited in vain until {there}, after {what}"
        );
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Keeps a picture for people where HOLDFAST_PICTURES names a directory.
fn picture(browser: &mut Browser, page: &str, scheme: &str, width: u32) -> Result<()> {
    use base64::Engine;
    let Some(directory) = std::env::var_os("HOLDFAST_PICTURES") else {
        return Ok(());
    };
    let name: String = page
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(browser.picture()?)?;
    let path = std::path::Path::new(&directory).join(format!("page{name}-{scheme}-{width}.png"));
    std::fs::write(path, bytes)?;
    Ok(())
}
