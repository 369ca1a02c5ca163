//! The API as its description promises it: schemathesis, which `scripts/need test`
//! installs, tries what the document allows and what it does not.

use std::path::Path;

use http_body_util::Full;
use hyper::Request;
use serde_json::Value;
use tokio::process::Command;

use super::table::{POLICY, granted, secret};
use crate::house::{House, Running};

async fn sent(running: &Running, request: hyper::http::request::Builder, body: &str) -> (u16, Value, String) {
    let request = request.header("host", "localhost");
    let (status, headers, body) = running
        .send(request.body(Full::from(body.to_owned())).unwrap())
        .await;
    let kind = headers
        .get("content-type")
        .map(|k| k.to_str().unwrap().to_owned());
    (
        status,
        serde_json::from_str(&body).unwrap_or_default(),
        kind.unwrap_or_default(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let place = std::env::var("HOLDFAST_TEST_SCHEMATHESIS")
        .unwrap_or_else(|_| format!("{}/../target/test-schemathesis", env!("CARGO_MANIFEST_DIR")));
    assert!(
        Path::new(&place).join("schemathesis").is_dir(),
        "schemathesis is not in {place}: scripts/need test installs it"
    );
    let section = format!("[access]\n{}", granted("all", "admin", "*", ""));
    let house = House::build_with(POLICY, &section).await;
    let running = house.open().await;
    let output = Command::new("python3")
        .args(["-c", "from schemathesis.cli import schemathesis; schemathesis()"])
        .args(["run", &format!("http://{}/v1/openapi.json", running.http)])
        .arg(format!("--header=Authorization: Bearer {}", secret("all")))
        .args([
            "--checks=all",
            "--max-examples=20",
            "--seed=1",
            "--rate-limit=auto",
            "--no-color",
        ])
        .env("PYTHONPATH", std::path::absolute(&place).unwrap())
        .current_dir(&house.root)
        .kill_on_drop(true)
        .output()
        .await
        .expect("python3 is installed");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // It tried all that the document has, but the document itself, which it has read.
    let (_, document) = running.get("/v1/openapi.json").await;
    let document: Value = serde_json::from_str(&document).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let tried = paths.iter().filter(|(path, _)| *path != "/v1/openapi.json");
    let operations: usize = tried.map(|(_, methods)| methods.as_object().unwrap().len()).sum();
    assert!(
        said.contains(&format!("{operations} selected / {operations} total")),
        "{operations}: {said}"
    );
    running.close().await;
}

#[tokio::test]
async fn every_error_is_problem_details() {
    let section = format!("[access]\n{}", granted("acme", "viewer", "acme/*", ""));
    let house = House::build_with(POLICY, &section).await;
    let running = house.open().await;
    let bearer = |request: hyper::http::request::Builder| {
        request.header("authorization", format!("Bearer {}", secret("acme")))
    };
    let long = "x".repeat(5000);
    for (what, request, body, expect) in [
        ("nobody", Request::get("/v1/status"), "", 401),
        ("not granted", bearer(Request::get("/v1/policy")), "", 403),
        (
            "out of scope",
            bearer(Request::get("/v1/clusters/other/lab")),
            "",
            404,
        ),
        (
            "no such cluster",
            bearer(Request::get("/v1/clusters/acme/none")),
            "",
            404,
        ),
        (
            "no cluster's name",
            bearer(Request::get("/v1/clusters/%FF/x")),
            "",
            400,
        ),
        ("no such path", bearer(Request::get("/v1/nothing")), "", 404),
        ("another method", bearer(Request::delete("/v1/status")), "", 405),
        (
            "too long",
            bearer(Request::post("/v1/refresh")),
            long.as_str(),
            413,
        ),
        (
            "another site",
            Request::post("/logout").header("origin", "https://evil.example"),
            "",
            403,
        ),
    ] {
        let (status, problem, kind) = sent(&running, request, body).await;
        assert_eq!(
            (status, kind.as_str()),
            (expect, "application/problem+json"),
            "{what}: {problem}"
        );
        assert_eq!(problem["status"], expect, "{what}");
        for field in ["title", "detail"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "{what}: {problem}"
            );
        }
    }
    let (status, cluster, _) = sent(&running, bearer(Request::get("/v1/clusters/acme/erp")), "").await;
    assert_eq!((status, &cluster["cluster"]), (200, &"acme/erp".into()));
    running.close().await;
}
