"""ACLs of the servers that the tests share: taken away from everybody for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)


@contextmanager
def denied(admin: AdminClient, topic: str, operation: AclOperation) -> Iterator[None]:
    """Take one permission on a topic away from everybody; Kafka then needs every other one to be given."""

    def rule(operation: AclOperation, permission: AclPermissionType) -> AclBinding:
        pattern = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL)
        return AclBinding(*pattern, "User:*", "*", operation, permission)

    rules = [rule(AclOperation.ALL, AclPermissionType.ALLOW), rule(operation, AclPermissionType.DENY)]
    for created in admin.create_acls(rules).values():
        created.result(10)
    try:
        yield
    finally:
        anything = (None, None, AclOperation.ANY, AclPermissionType.ANY)
        pattern = AclBindingFilter(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, *anything)
        admin.delete_acls([pattern])[pattern].result(10)
