return {tenant = {"org_id"}, roles = {"https://ameide.dev/roles"}}
