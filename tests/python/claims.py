"""What a client that is generated for Python can rely on. Each function is one claim, in order: later ones build on earlier ones."""

import grpc
from google.protobuf import duration_pb2
from roadstead.v1 import admin_pb2, admin_pb2_grpc
from roadstead.v1 import fleet_pb2, fleet_pb2_grpc
from roadstead.v1 import placement_pb2, placement_pb2_grpc
from roadstead.v1 import types_pb2

GIB = 1 << 30
ANSWER_WITHIN_S = 20
STREAMED = 500


def answers(replica) -> None:
    """Raises until the replica serves and leads."""
    with replica.channel("operator-test") as channel:
        status = admin_pb2_grpc.AdminServiceStub(channel).GetStatus(admin_pb2.GetStatusRequest(), timeout=2)
        fleet_pb2_grpc.FleetServiceStub(channel).ListPools(fleet_pb2.ListPoolsRequest(), timeout=2)
        assert status.group_id


def spec(owner: str = "acme-gmbh", **constraints) -> types_pb2.TenantSpec:
    return types_pb2.TenantSpec(
        owner=owner, **{"class": "shop"}, version="1.0.0", constraints=types_pb2.Constraints(**constraints)
    )


def an_operator_declares_a_fleet(replica) -> None:
    with replica.channel("operator-test") as channel:
        fleet = fleet_pb2_grpc.FleetServiceStub(channel)
        pool = types_pb2.Pool(name="home", spec=types_pb2.PoolSpec(kind=types_pb2.PoolSpec.KIND_HOME))
        fleet.PutPool(fleet_pb2.PutPoolRequest(pool=pool), timeout=ANSWER_WITHIN_S)
        total = types_pb2.Resources(cpu_millicores=500, memory_bytes=GIB, pods=4, storage_bytes=GIB, attachments=1)
        largest = types_pb2.PodSize(cpu_millicores=250, memory_bytes=GIB // 2)
        shop = types_pb2.Class(
            name="shop",
            version="1.0.0",
            requests=types_pb2.Requests(total=total, largest_pod=largest),
            retain=duration_pb2.Duration(seconds=3600),
        )
        fleet.PutClass(fleet_pb2.PutClassRequest(**{"class": shop}), timeout=ANSWER_WITHIN_S)
        for number, region in enumerate(["eu-1", "us-1"]):
            uid = f"00000000-0000-4000-8000-00000000000{number}"
            cluster = types_pb2.Cluster(
                name=region, spec=types_pb2.ClusterSpec(uid=uid, provider="own", region=region, pool="home")
            )
            fleet.PutCluster(fleet_pb2.PutClusterRequest(cluster=cluster), timeout=ANSWER_WITHIN_S)
            there = types_pb2.Resources(
                cpu_millicores=500_000, memory_bytes=1000 * GIB, pods=4000, storage_bytes=1000 * GIB, attachments=1000
            )
            report = fleet_pb2.ReportCapacityRequest(cluster=region, uid=uid, capacity=types_pb2.Capacity(allocatable=there))
            fleet.ReportCapacity(report, timeout=ANSWER_WITHIN_S)
        names = [c.name for c in fleet.ListClusters(fleet_pb2.ListClustersRequest(), timeout=ANSWER_WITHIN_S).clusters]
        assert names == ["eu-1", "us-1"], names


def a_tenant_is_placed_where_its_constraints_say(replica) -> None:
    with replica.channel("client-test") as channel:
        placement = placement_pb2_grpc.PlacementServiceStub(channel)
        request = placement_pb2.PlaceTenantRequest(name="acme", spec=spec(regions=["us-1"]))
        answer = placement.PlaceTenant(request, timeout=ANSWER_WITHIN_S)
        assert answer.tenant.status.binding.cluster == "us-1", answer
        read = placement.GetTenant(placement_pb2.GetTenantRequest(name="acme"), timeout=ANSWER_WITHIN_S)
        assert read.tenant.uid == answer.tenant.uid
        assert (read.revision.incarnation, read.revision.index) >= (answer.revision.incarnation, answer.revision.index)


def a_refusal_names_its_reason(replica) -> None:
    with replica.channel("client-test") as channel:
        placement = placement_pb2_grpc.PlacementServiceStub(channel)
        request = placement_pb2.PlaceTenantRequest(name="lost", spec=spec(regions=["nowhere"]), wait=False)
        try:
            placement.PlaceTenant(request, timeout=ANSWER_WITHIN_S)
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION), error
            assert "region" in error.details(), error
            metadata = dict(error.trailing_metadata() or [])
            assert b"roadstead.dev" in metadata.get("grpc-status-details-bin", b""), "no ErrorInfo"
        else:
            raise AssertionError("a tenant that fits nowhere was not refused")


def a_watcher_sees_every_streamed_placement_once(replica) -> None:
    with replica.channel("client-test") as placer, replica.channel("operator-test") as watcher:
        placement = placement_pb2_grpc.PlacementServiceStub(placer)
        request = placement_pb2.WatchRequest(kinds=[placement_pb2.WATCH_KIND_TENANT], with_initial_state=True)
        watch = placement_pb2_grpc.PlacementServiceStub(watcher).Watch(request, timeout=60)
        initial = []
        for message in watch:
            initial += [event.tenant.name for event in message.events]
            if message.initial_state_complete:
                break
        assert initial == ["acme"], initial

        def requests():
            for number in range(STREAMED):
                place = placement_pb2.PlaceTenantRequest(name=f"py-{number:04}", spec=spec(owner=f"owner-{number % 7}"))
                yield placement_pb2.PlaceTenantsRequest(sequence=number, place=place)

        acknowledged = {}
        for answer in placement.PlaceTenants(requests(), timeout=60):
            assert answer.WhichOneof("result") == "acknowledgement", answer
            assert answer.sequence not in acknowledged, f"{answer.sequence} was answered twice"
            acknowledged[answer.sequence] = answer.acknowledgement
        assert len(acknowledged) == STREAMED

        seen = {}
        last = (0, 0, 0)
        for message in watch:
            for event in message.events:
                position = (message.revision.incarnation, message.revision.index, event.ordinal)
                assert position > last, f"{position} after {last}"
                last = position
                if event.type == placement_pb2.WatchEvent.TYPE_ADDED:
                    assert event.tenant.name not in seen, f"{event.tenant.name} was added twice"
                    seen[event.tenant.name] = event.tenant
            if len(seen) == STREAMED:
                break
        for number, acknowledgement in acknowledged.items():
            tenant = seen[f"py-{number:04}"]
            assert tenant.uid == acknowledgement.uid
            assert tenant.status.binding == acknowledgement.binding
        watch.cancel()


def pages_show_every_tenant_once(replica) -> None:
    with replica.channel("client-test") as channel:
        placement = placement_pb2_grpc.PlacementServiceStub(channel)
        names, token = [], ""
        while True:
            request = placement_pb2.ListTenantsRequest(page_size=64, page_token=token, filter='name : "py-*"')
            page = placement.ListTenants(request, timeout=ANSWER_WITHIN_S)
            names += [tenant.name for tenant in page.tenants]
            token = page.next_page_token
            if not token:
                break
        assert names == [f"py-{number:04}" for number in range(STREAMED)], len(names)


def a_client_may_not_change_the_fleet(replica) -> None:
    with replica.channel("client-test") as channel:
        try:
            request = fleet_pb2.CordonClusterRequest(name="eu-1")
            fleet_pb2_grpc.FleetServiceStub(channel).CordonCluster(request, timeout=ANSWER_WITHIN_S)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
        else:
            raise AssertionError("a client cordoned a cluster")


CLAIMS = [
    an_operator_declares_a_fleet,
    a_tenant_is_placed_where_its_constraints_say,
    a_refusal_names_its_reason,
    a_watcher_sees_every_streamed_placement_once,
    pages_show_every_tenant_once,
    a_client_may_not_change_the_fleet,
]
