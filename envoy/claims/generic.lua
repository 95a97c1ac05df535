return {tenant = {"tenant_id"}, roles = {"roles"}}
