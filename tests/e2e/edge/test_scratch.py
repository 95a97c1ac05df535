import asyncio, json
import grpc, httpx
from ameide.user.v1 import user_pb2 as pb
from google.rpc import status_pb2, error_details_pb2

def show(tag, r):
    print(f"\n== {tag}: {r.status_code} {r.http_version} {dict(r.headers)}\n{r.text[:600]}")

async def rpc(ch, path, req=b"", md=(), timeout=5):
    m = ch.unary_unary(path, request_serializer=lambda b: b, response_deserializer=lambda b: b)
    try:
        c = m(req, metadata=md, timeout=timeout)
        r = await c
        return "OK", r[:50], await c.initial_metadata()
    except grpc.aio.AioRpcError as e:
        t = dict(e.trailing_metadata() or ()); 
        d = t.get("grpc-status-details-bin")
        return e.code(), e.details(), (str(status_pb2.Status.FromString(d)) if d else None), {k:v for k,v in t.items() if k!="grpc-status-details-bin"}, e.initial_metadata()

async def test_explore(edge_, backend, issuer):
  async with edge_.rest() as rest, httpx.AsyncClient(base_url=edge_.url) as anon, edge_.channel() as ch:
    tok = tuple(edge_.credentials.items())
    U = "/ameide.user.v1.UserService/"
    for ct in ("application/grpc-web+proto", "application/grpc-web-text"):
        h = {"content-type": ct, "x-grpc-web": "1"}
        body = b"\0\0\0\0\0" if "text" not in ct else b"AAAAAAA="
        show("web anon", await anon.post(U+"GetMe", headers=h, content=body))
        show("web ok", await rest.post(U+"GetMe", headers=h, content=body))
        show("web down", await rest.post("/ameide.workflow.v1.WorkflowService/GetWorkflow", headers=h, content=body))
        show("web 404", await rest.post("/x.Y/Z", headers=h, content=body))
        show("web 413", await rest.post("/x.Y/Z", headers=h, content=b"A"*11000000))
