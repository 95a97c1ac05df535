return {tenant = {"tenant_id"}, roles = {"realm_access", "roles"}}
