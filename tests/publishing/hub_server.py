"""A Hub on this machine: the endpoints that huggingface_hub calls to publish a folder and to load it again."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

TOKENS = {"hf_writes": ("anna", "write"), "hf_reads": ("anna", "read"), "hf_other": ("bert", "write")}
FIRST_FILE = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class Hub:
    """Repositories in memory; every commit is kept under its id, branches point to commits."""

    def __init__(self):
        self.repositories = {}
        self.blobs = {}
        self.requests = []
        # (method, part of the path) -> (status, message), to make an endpoint fail
        self.failures = {}
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def create(self, name, private=False, files=None):
        repository = {"private": private, "commits": {}, "branches": {}, "pulls": 0}
        self.repositories[name] = repository
        self.commit(name, "main", {**FIRST_FILE, **(files or {})}, set(), "initial commit")
        return repository

    def commit(self, name, branch, added, deleted, message):
        repository = self.repositories[name]
        before = repository["commits"].get(repository["branches"].get(branch), {"files": {}})["files"]
        files = {path: content for path, content in before.items() if path not in deleted} | added
        oid = hashlib.sha1(f"{name}{branch}{message}{len(repository['commits'])}".encode()).hexdigest()
        repository["commits"][oid] = {"files": files, "message": message}
        repository["branches"][branch] = oid
        return oid

    def files(self, name, revision="main"):
        repository = self.repositories[name]
        return repository["commits"][repository["branches"].get(revision, revision)]["files"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def answer(self, status=200, content=None, headers=None, raw=None):
        body = json.dumps(content).encode() if raw is None else raw
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, message, code=None):
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer(status, {"error": message}, headers)

    def do(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        address = urlparse(self.path)
        path, self.query = unquote(address.path), parse_qs(address.query)
        self.hub.requests.append((self.command, path))
        for (method, part), (status, message) in self.hub.failures.items():
            if method == self.command and part in path:
                return self.refuse(status, message)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.user, self.role = TOKENS.get(token, (None, None))
        if path.startswith("/lfs/"):
            return self.lfs_put(path)
        if token and self.user is None:
            return self.refuse(401, "Invalid credentials in Authorization header")
        for pattern, method in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method.__name__.split("_")[-1].upper() in (self.command, "ANY"):
                return method(self, **found.groupdict())
        return self.refuse(404, f"no such endpoint: {self.command} {path}")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do

    def lfs_put(self, path):
        oid = path.rpartition("/")[2]
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.blobs[oid] = self.body
        self.answer(raw=b"")

    def visible(self, name):
        repository = self.hub.repositories.get(name)
        if repository is None or (repository["private"] and name.split("/")[0] != self.user):
            self.refuse(404 if self.user else 401, "Repository not found", "RepoNotFound")
            return None
        return repository

    def commit_of(self, repository, revision):
        oid = repository["branches"].get(revision, revision)
        if oid not in repository["commits"]:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return oid

    def may_write(self, name):
        if self.role == "write" and name.split("/")[0] == self.user:
            return True
        self.refuse(403, "You don't have the rights to write here")
        return False

    def whoami_get(self):
        if self.user is None:
            return self.refuse(401, "Invalid username or password.")
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": self.role}}
        self.answer(content={"type": "user", "name": self.user, "orgs": [], "auth": auth})

    def validate_post(self):
        content = json.loads(self.body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
        self.answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def create_post(self):
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        if name in self.hub.repositories:
            return self.refuse(409, "You already created this model repo")
        if not self.may_write(name):
            return None
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.create(name, private)
        self.answer(content={"url": f"{self.hub.endpoint}/{name}", "name": name})

    def create_delete(self):
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        if self.may_write(name):
            del self.hub.repositories[name]
            self.answer(content={})

    def info_get(self, name, revision="main"):
        repository = self.visible(name)
        oid = repository and self.commit_of(repository, revision)
        if oid:
            files = [{"rfilename": path} for path in repository["commits"][oid]["files"]]
            facts = {"id": name, "modelId": name, "sha": oid, "private": repository["private"], "siblings": files}
            self.answer(content={**facts, "tags": [], "downloads": 0, "likes": 0})

    def tree_get(self, name, revision, path=""):
        repository = self.visible(name)
        oid = repository and self.commit_of(repository, revision)
        if oid:
            files = repository["commits"][oid]["files"]
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in sorted(files.items())
            ]
            self.answer(content=rows)

    def preupload_post(self, name, revision):
        repository = self.visible(name)
        if not repository or not self.commit_of(repository, revision):
            return None
        if "create_pr" not in self.query and not self.may_write(name):
            return None
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(self.body)["files"]
        ]
        self.answer(content={"files": files, "commitOid": "0" * 40})

    def batch_post(self, name):
        wanted = json.loads(self.body)
        assert "basic" in wanted["transfers"]
        objects = []
        for entry in wanted["objects"]:
            actions = {"upload": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}", "header": {}}}
            known = entry["oid"] in self.hub.blobs
            objects.append(entry if known else {**entry, "authenticated": True, "actions": actions})
        self.answer(content={"transfer": "basic", "objects": objects})

    def commit_post(self, name, revision):
        repository = self.visible(name)
        if not repository:
            return None
        pull = "create_pr" in self.query
        if not pull and not self.may_write(name):
            return None
        lines = [json.loads(line) for line in self.body.splitlines()]
        added, deleted, message = {}, set(), None
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                added[value["path"]] = self.hub.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                deleted.add(value["path"])
        if pull:
            repository["pulls"] += 1
            branch = f"refs/pr/{repository['pulls']}"
            repository["branches"][branch] = repository["branches"][revision]
        oid = self.hub.commit(name, branch if pull else revision, added, deleted, message)
        address = f"{self.hub.endpoint}/{name}"
        content = {"success": True, "commitUrl": f"{address}/commit/{oid}", "commitOid": oid, "hookOutput": ""}
        if pull:
            content["pullRequestUrl"] = f"{address}/discussions/{repository['pulls']}"
        self.answer(content=content)

    def branch_post(self, name, branch):
        repository = self.visible(name)
        if repository and self.may_write(name):
            repository["branches"][branch] = repository["branches"]["main"]
            self.answer(content={})

    def resolve_any(self, name, revision, path):
        repository = self.visible(name)
        oid = repository and self.commit_of(repository, revision)
        if not oid:
            return None
        content = repository["commits"][oid]["files"].get(path)
        if content is None:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": oid, "Content-Type": "application/octet-stream"}
        self.answer(headers=headers, raw=content)


_NAME = r"(?P<name>[^/]+/[^/]+)"
ROUTES = (
    (r"/api/whoami-v2", _Handler.whoami_get),
    (r"/api/validate-yaml", _Handler.validate_post),
    (r"/api/repos/create", _Handler.create_post),
    (r"/api/repos/delete", _Handler.create_delete),
    (rf"/api/models/{_NAME}", _Handler.info_get),
    (rf"/api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.info_get),
    (rf"/api/models/{_NAME}/tree/(?P<revision>refs/pr/\d+|[^/]+)(/(?P<path>.*))?", _Handler.tree_get),
    (rf"/api/models/{_NAME}/branch/(?P<branch>.+)", _Handler.branch_post),
    (rf"/api/models/{_NAME}/preupload/(?P<revision>.+)", _Handler.preupload_post),
    (rf"/api/models/{_NAME}/commit/(?P<revision>.+)", _Handler.commit_post),
    (rf"/{_NAME}\.git/info/lfs/objects/batch", _Handler.batch_post),
    (rf"/{_NAME}/resolve/(?P<revision>refs/pr/\d+|[^/]+)/(?P<path>.+)", _Handler.resolve_any),
)
