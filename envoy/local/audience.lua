return "ameide-api"
